"""Accuracy and attack success on the test set, on the device.

Axes: D parameters, n test samples, B batch.
"""

import torch
from torch import Tensor

from rflbat.attacks.base import Trigger
from rflbat.models.base import Model

BATCH = 2000
MEASURES = ("accuracy", "attack_success_rate", "attack_success_rate_inclusive")


def evaluate(model: Model, params_D: Tensor, x: Tensor, labels_n: Tensor, trigger: Trigger, target: int) -> Tensor:
    """Measure a global model on clean and on triggered test samples.

    ``accuracy`` = share of clean samples answered right. ``attack_success_rate`` = share of triggered samples
    answered with the target, samples of the target class excluded; the inclusive rate counts them too, so its floor
    is the share of that class.

    Args:
        model: functional model.
        params_D: its parameters.
        x: test samples as floats, on the device.
        labels_n: their labels.
        trigger: what the attacker shows at test time.
        target: label that the attacker wants.

    Returns:
        ``(3,)`` float64 in the order of ``MEASURES``, on the device.
    """
    named = model.layout.views(params_D)
    right = torch.zeros(3, dtype=torch.float64, device=x.device)
    for first in range(0, len(x), BATCH):
        x_B, labels_B = x[first : first + BATCH], labels_n[first : first + BATCH]
        stamped = trigger(x_B.clone(), torch.ones_like(labels_B, dtype=torch.bool))
        hit_B = model.apply(named, stamped).argmax(1) == target
        correct_B = model.apply(named, x_B).argmax(1) == labels_B
        right += torch.stack([correct_B.sum(), (hit_B & (labels_B != target)).sum(), hit_B.sum()])
    others = (labels_n != target).sum()
    return right / torch.stack([torch.full_like(others, len(x)), others, torch.full_like(others, len(x))])
