"""The interface of an attack: triggers stamped on training samples, and tampering with the trained update.

Axes: N clients of the round, D parameters, B samples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rflbat.errors import UserError

Trigger = Callable[[Tensor, Tensor], Tensor]
"""``trigger(x_B..., on_B)`` returns the samples, stamped where ``on_B`` is true. It may write to ``x``."""

Tamper = Callable[[Tensor, Tensor], Tensor]
"""``tamper(updates_ND, malicious_N)`` changes the malicious rows in place and returns the updates."""


@dataclass(frozen=True)
class SampleFormat:
    """The format of the samples. It is all that an attacker knows about the data besides its own samples.

    Args:
        shape: shape of one sample: (channels, height, width) for images, (tokens,) for texts.
        high: value of a lit trigger pixel, the value of ink.
        encode: for texts, function from a text to token ids; None for images.
        device: device on which samples are stamped. An attack moves its own tensors there when it is built, not in a
            round.
    """

    shape: tuple[int, ...]
    high: float
    encode: Callable[[str], list[int]] | None = None
    device: torch.device | str = "cpu"


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


@dataclass(frozen=True)
class Attack:
    """A backdoor attack, or an untargeted attack on the updates alone.

    An untargeted attack has ``no_trigger`` as its only local trigger and as its full trigger, and a poison fraction of
    0. Its attack success rate is that of unchanged test samples: the share of the samples of other classes that are
    classified as the target.

    Args:
        name: registry name.
        local_triggers: triggers that the groups of malicious clients stamp in training; a single one unless the attack
            is distributed.
        full_trigger: trigger at test time.
        poison_fraction: share of each malicious batch that is stamped and relabelled, 0 to 1.
        tamper: function applied to the malicious updates before they reach the server.
        needs_all_columns: whether ``tamper`` needs complete update vectors. False: it works on a column shard. None
            (default for third parties): unknown, refused under torchrun. The attacks of this package work on shards.
        row_wise: whether ``tamper`` computes each number from its old value alone, such as by a factor, and reads no
            other row. If so, it also accepts row-sparse updates of text models, which hold only the embedding rows that
            a client touched: the same column belongs to different words in different rows. Otherwise it gets all D
            columns, and text models train the whole embedding.
    """

    name: str
    local_triggers: tuple[Trigger, ...]
    full_trigger: Trigger
    poison_fraction: float
    tamper: Tamper
    needs_all_columns: bool | None = None
    row_wise: bool = False
