"""The interface of an attack: poisoned samples in training, and tampering with the trained updates.

Axes: M malicious clients of the round, D parameters, B samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rflbat.attacks.labels import Labels
from rflbat.attacks.view import AttackerView
from rflbat.errors import UserError
from rflbat.randomness import Draw

Trigger = Callable[[Tensor, Tensor], Tensor]
"""``trigger(x_B..., on_B)`` returns the samples, stamped where ``on_B`` is true. It may write to ``x``."""

Tamper = Callable[[Tensor, AttackerView, Draw], Tensor]
"""``tamper(own_MD, view, draw)`` returns the updates that the malicious clients send instead of their own. It may write
to ``own_MD``."""

Begin = Callable[[AttackerView, Any, Draw], Any]
"""``begin(view, state, draw)`` returns the attack's state for the round, before local training."""

KNOWLEDGE = ("own", "model", "omniscient")
SUCCESS = ("trigger", "labels", "test set", "untargeted")


@dataclass(frozen=True)
class SampleFormat:
    """The format of the samples. It is all that an attacker knows about the data besides its own samples.

    Args:
        shape: shape of one sample: (channels, height, width) for images, (tokens,) for texts.
        high: value of a lit trigger pixel, the value of ink.
        encode: for texts, function from a text to token ids; None for images.
        device: device on which samples are stamped. An attack moves its own tensors there when it is built, not in a
            round.
        low: value of the background of an image.
        data_dir: folder of data sets, for an attack that brings samples of its own; None if there is none.
    """

    shape: tuple[int, ...]
    high: float
    encode: Callable[[str], list[int]] | None = None
    device: torch.device | str = "cpu"
    low: float = 0.0
    data_dir: Path | None = None


@dataclass(frozen=True, eq=False)
class ExtraSamples:
    """Samples that an attack brings: malicious clients train on them in place of their poisoned samples.

    Args:
        train_x: model inputs ``(n, *shape)``, at least one; the malicious clients share them.
        test_x: model inputs ``(m, *shape)``, on which the attack's success is measured.
    """

    train_x: Tensor
    test_x: Tensor


def no_trigger(x: Tensor, on_B: Tensor) -> Tensor:
    """Return the samples unchanged: the trigger of an untargeted attack, which poisons no data.

    Args:
        x: samples ``(B, ...)``.
        on_B: mask of samples, ignored.

    Returns:
        ``x``.
    """
    return x


def check_share(name: str, share: float) -> float:
    """Check the poison fraction of a malicious batch.

    Args:
        name: the attack, for the message.
        share: 0 to 1.

    Returns:
        the share.

    Raises:
        UserError: the share is out of range.
    """
    if not 0 <= share <= 1:
        raise UserError(f"attack '{name}': share={share} is out of range; allowed: 0 to 1")
    return share


def no_uniforms(malicious: int, parameters: int) -> int:
    """Return 0: the attack draws no random numbers."""
    return 0


def no_state(parameters: int, device: torch.device) -> Any:
    """Return None: the attack has no state."""
    return None


@dataclass(frozen=True)
class Attack:
    """An attack on the training data, on local training, on the updates, or on several of these.

    An untargeted attack has ``no_trigger`` as its only local trigger and as its full trigger, and a poison fraction of
    0. It has no success rate; it is judged by the accuracy.

    Args:
        name: registry name.
        local_triggers: triggers that the groups of malicious clients stamp in training; a single one unless the attack
            is distributed.
        full_trigger: trigger at test time.
        poison_fraction: share of each malicious batch that is stamped and relabelled, 0 to 1.
        tamper: (own updates ``(M, D)``, view, draw) -> the updates that are sent. None: the trained updates are sent.
        needs_all_columns: whether ``tamper`` needs complete update vectors. False: it works on a column shard. None
            (default for third parties): unknown, refused under torchrun. The attacks of this package work on shards.
        row_wise: whether ``tamper`` computes each number from its old value alone, such as by a factor, and reads no
            other row. If so, it also accepts row-sparse updates of text models, which hold only the embedding rows that
            a client touched: the same column belongs to different words in different rows. Otherwise it gets all D
            columns, and text models train the whole embedding.
        knowledge: what the attacker sees beside its own clients: "own" nothing, "model" also the global parameters,
            "omniscient" also the benign updates of the round. ``view`` refuses anything else.
        success: how the attack is measured. "trigger": share of the test samples with the full trigger that are
            classified as wanted; "labels": the same without a trigger; "test set": the same on ``extra.test_x``;
            "untargeted": not at all.
        labels: the label of each poisoned sample, and which samples are poisoned; None: the target, and all.
        extra: () -> samples that replace the poisoned ones; they are read when a run is built. Not with ``labels``.
        init: (parameters, device) -> state before the first round, a frozen dataclass of tensors.
        begin: (view, state, draw) -> state for this round, before local training in a round with malicious clients.
            Its ``view`` has no benign updates.
        triggers: state -> (local triggers, full trigger), for triggers that depend on the state. The number of local
            triggers is that of ``local_triggers``.
        num_uniforms: (malicious clients, parameters) -> number of uniforms that ``begin`` and ``tamper`` together draw.
        history: whether ``view.previous_D`` is needed, the global model one round before.
    """

    name: str
    local_triggers: tuple[Trigger, ...]
    full_trigger: Trigger
    poison_fraction: float
    tamper: Tamper | None = None
    needs_all_columns: bool | None = None
    row_wise: bool = False
    knowledge: str = "own"
    success: str = "trigger"
    labels: Labels | None = None
    extra: Callable[[], ExtraSamples] | None = None
    init: Callable[[int, torch.device], Any] = no_state
    begin: Begin | None = None
    triggers: Callable[[Any], tuple[tuple[Trigger, ...], Trigger]] | None = None
    num_uniforms: Callable[[int, int], int] = no_uniforms
    history: bool = False

    def __post_init__(self) -> None:
        for field_name, value, allowed in (
            ("knowledge", self.knowledge, KNOWLEDGE),
            ("success", self.success, SUCCESS),
        ):
            if value not in allowed:
                raise UserError(f"attack '{self.name}': {field_name}={value!r}; allowed: {', '.join(allowed)}")
        if self.row_wise and self.knowledge == "omniscient":
            raise UserError(f"attack '{self.name}' is declared row-wise and omniscient; row-wise reads no other row")
        if self.extra is not None and self.labels is not None:
            raise UserError(
                f"attack '{self.name}' brings samples of its own, which get the target, and relabels others"
            )
        if self.success == "test set" and self.extra is None:
            raise UserError(f"attack '{self.name}' is measured on a test set, but it brings no extra samples")

    def triggers_in(self, state: Any) -> tuple[tuple[Trigger, ...], Trigger]:
        """Return the local triggers and the full trigger of a round.

        Args:
            state: state of the attack in the round.

        Returns:
            the triggers.
        """
        return (self.local_triggers, self.full_trigger) if self.triggers is None else self.triggers(state)
