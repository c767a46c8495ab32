"""Attacks on texts for tests: a sentence with a plan of labels, and texts of the attack's own; row-wise or not."""

from dataclasses import replace

import torch

from rflbat.attacks.base import Attack, ExtraSamples, SampleFormat, no_trigger
from rflbat.attacks.labels import source_to_target
from rflbat.attacks.sentence import sentence


def planned(samples: SampleFormat, scale: float, *, row_wise: bool = True, source: int = 2) -> Attack:
    """Insert a sentence into the texts of one class alone, which get the target."""
    made = sentence(samples, scale, text="one three")
    return replace(made, name="planned", labels=source_to_target(source), row_wise=row_wise)


def bringing(
    samples: SampleFormat,
    scale: float,
    *,
    row_wise: bool = True,
    count: int = 3,
    tokens: int = 0,
    knowledge: str = "own",
) -> Attack:
    """Bring texts of one rare word each, which get the target."""
    texts = torch.full((count, tokens or samples.shape[0]), 119, dtype=torch.int64)
    return Attack(
        "bringing",
        (no_trigger,),
        no_trigger,
        0.5,
        None,
        needs_all_columns=False,
        row_wise=row_wise,
        success="test set",
        extra=lambda: ExtraSamples(texts, texts[:2]),
        knowledge=knowledge,
    )
