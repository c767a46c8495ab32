"""Accuracy and attack success rate on the test set, computed on the device.

Axes: D parameters, n test samples, B batch.
"""

import torch
from torch import Tensor

from rflbat.attacks.base import Attack
from rflbat.models.base import Model
from rflbat.ranks import SINGLE, Ranks

BATCH = 2000


def evaluate(
    model: Model,
    params_D: Tensor,
    x: Tensor,
    labels_n: Tensor,
    attack: Attack,
    target: int,
    ranks: Ranks = SINGLE,
) -> Tensor:
    """Measure a global model on clean and on triggered test samples.

    ``accuracy``: share of the clean samples that are classified correctly. ``attack_success_rate``: share of the
    triggered samples that are classified as the target, samples of the target class excluded. The inclusive rate counts
    these too, so its floor is the share of that class.

    Args:
        model: functional model.
        params_D: its parameters.
        x: test samples as model inputs, on the device.
        labels_n: their labels.
        attack: its full trigger is applied at test time; for a distributed backdoor each local trigger too.
        target: label that the attacker wants.
        ranks: processes that share the test set; each counts on its part, and an all-reduce adds the counts.

    Returns:
        float64 on the device, in the order of ``MEASURES``; for a distributed backdoor followed by the attack success
        rate of each local trigger (target class excluded).
    """
    named = model.named(params_D)
    local = attack.local_triggers if len(attack.local_triggers) > 1 else ()
    right = torch.zeros(3 + len(local), dtype=torch.float64, device=x.device)
    own = ranks.rows(len(x))
    for first in range(own.start, own.stop, BATCH):
        rows = slice(first, min(first + BATCH, own.stop))
        x_B, labels_B = x[rows], labels_n[rows]
        all_B, other_B = torch.ones_like(labels_B, dtype=torch.bool), labels_B != target
        correct_B = model.apply(named, x_B).argmax(1) == labels_B
        hits = [
            model.apply(named, trigger(x_B.clone(), all_B)).argmax(1) == target
            for trigger in (attack.full_trigger, *local)
        ]
        excluded = [(hit_B & other_B).sum() for hit_B in hits]
        right += torch.stack([correct_B.sum(), excluded[0], hits[0].sum(), *excluded[1:]])
    others = (labels_n != target).sum()
    total = torch.full_like(others, len(x))
    return ranks.all_reduce(right) / torch.stack([total, others, total, *([others] * len(local))])
