"""Accuracy and attack success rate on the test set, computed on the device.

Axes: D parameters, n test samples, B batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rflbat.attacks.base import Trigger, no_trigger
from rflbat.attacks.labels import Poison
from rflbat.models.base import Model
from rflbat.ranks import SINGLE, Ranks

BATCH = 2000


@dataclass(frozen=True, eq=False)
class Measured:
    """How a run is measured on test samples.

    Args:
        x: test samples as model inputs, on the device.
        labels_n: their labels.
        target: label that the attacker wants.
        success: as in ``Attack.success``.
        poison: label that the attacker wants of each test sample, and which samples count; None: the target, all.
        extra_x: samples of a "test set", on the device.
    """

    x: Tensor
    labels_n: Tensor
    target: int
    success: str = "trigger"
    poison: Poison | None = None
    extra_x: Tensor | None = None


def evaluate(
    model: Model,
    params_D: Tensor,
    measured: Measured,
    triggers: Sequence[Trigger] = (no_trigger,),
    ranks: Ranks = SINGLE,
) -> Tensor:
    """Measure a global model on clean and on triggered test samples.

    ``accuracy``: share of the clean samples that are classified correctly. ``attack_success_rate``: share of the
    triggered samples that are classified as the attacker wants, samples whose own label that is excluded. The inclusive
    rate counts these too, so for one target its floor is the share of that class. Both are NaN for an untargeted
    attack, and both are the share of the extra samples for a "test set".

    Args:
        model: functional model.
        params_D: its parameters.
        measured: test samples, and how they are measured.
        triggers: the full trigger; for a distributed backdoor followed by the local ones.
        ranks: processes that share the test set; each counts on its part, and an all-reduce adds the counts.

    Returns:
        float64 on the device, in the order of ``MEASURES``; for a distributed backdoor followed by the attack success
        rate of each local trigger (samples of the wanted label excluded).
    """
    x, labels_n = measured.x, measured.labels_n
    named = model.named(params_D)
    triggered = triggers if measured.success in ("trigger", "labels") else ()
    right = torch.zeros(2 + len(triggers), dtype=torch.float64, device=x.device)
    own = ranks.rows(len(x))
    for first in range(own.start, own.stop, BATCH):
        rows = slice(first, min(first + BATCH, own.stop))
        x_B, labels_B = x[rows], labels_n[rows]
        wanted_B, counted_B = _wanted(measured, rows)
        all_B, other_B = torch.ones_like(labels_B, dtype=torch.bool), counted_B & (labels_B != wanted_B)
        right[0] += (model.apply(named, x_B).argmax(1) == labels_B).sum()
        hits = [model.apply(named, trigger(x_B.clone(), all_B)).argmax(1) == wanted_B for trigger in triggered]
        if hits:
            excluded = [(hit_B & other_B).sum() for hit_B in hits]
            right[1:] += torch.stack([excluded[0], (hits[0] & counted_B).sum(), *excluded[1:]])
    wanted_n, counted_n = _wanted(measured, slice(0, len(x)))
    others, counted = (counted_n & (labels_n != wanted_n)).sum(), counted_n.sum()
    total = torch.full_like(others, len(x))
    rates = ranks.all_reduce(right) / torch.stack([total, others, counted, *([others] * (len(triggers) - 1))])
    if measured.success == "test set":
        rates[1:3] = _share_of_extra(model, named, measured)
    elif measured.success == "untargeted":
        rates[1:3] = torch.nan
    return rates


def _wanted(measured: Measured, rows: slice) -> tuple[Tensor, Tensor]:
    """Return the label that the attacker wants of each test sample, and which samples count."""
    if measured.poison is not None:
        return measured.poison.label_n[rows], measured.poison.eligible_n[rows]
    labels_B = measured.labels_n[rows]
    return torch.full_like(labels_B, measured.target), torch.ones_like(labels_B, dtype=torch.bool)


def _share_of_extra(model: Model, named: Mapping[str, Tensor], measured: Measured) -> Tensor:
    """Return the share of the extra samples that are classified as the target; every rank measures all of them."""
    assert measured.extra_x is not None
    hits = [
        (model.apply(named, x_B).argmax(1) == measured.target).sum() for x_B in torch.split(measured.extra_x, BATCH)
    ]
    return torch.stack(hits).sum().to(torch.float64) / len(measured.extra_x)
