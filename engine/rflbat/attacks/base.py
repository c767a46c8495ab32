"""What an attack is: triggers stamped on training data, and what is done to the trained update.

Axes: N clients of the round, D parameters, B samples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rflbat.errors import UserError

Trigger = Callable[[Tensor, Tensor], Tensor]
"""``trigger(x_B..., on_B)`` returns the samples, stamped where ``on_B`` is true; it may write into ``x``."""

Tamper = Callable[[Tensor, Tensor], Tensor]
"""``tamper(updates_ND, malicious_N)`` changes the malicious rows, in place, and returns the updates."""


@dataclass(frozen=True)
class SampleFormat:
    """What an attacker knows of the data: its own samples' format, nothing of the server or of other clients.

    Args:
        shape: shape of one sample, (channels, height, width) for images, (tokens,) for texts.
        high: value of ink: that of a lit trigger pixel.
        encode: for texts, from a text to token ids; None for images.
        device: where they are stamped; an attack puts there what it needs when it is made, not in a round.
    """

    shape: tuple[int, ...]
    high: float
    encode: Callable[[str], list[int]] | None = None
    device: torch.device | str = "cpu"


def check_share(name: str, share: float) -> float:
    """Check the poisoned share of a malicious batch.

    Args:
        name: the attack, for the message.
        share: 0 to 1.

    Returns:
        the share.

    Raises:
        UserError: it is out of its range.
    """
    if not 0 <= share <= 1:
        raise UserError(f"attack '{name}': share={share} is not in 0..1")
    return share


@dataclass(frozen=True)
class Attack:
    """A backdoor attack.

    Args:
        name: registry name.
        local_triggers: what the groups of malicious clients stamp while training; one, unless it is distributed.
        full_trigger: what the attacker shows at test time.
        poison_fraction: share of each malicious batch that is stamped and relabelled, 0 to 1.
        tamper: what malicious clients do to their update before they send it.
        needs_all_columns: whether ``tamper`` needs complete update vectors. False: it works on a column shard. None
            (default for third parties): unknown, refused under torchrun; the attacks of this package work on shards.
        row_wise: ``tamper`` changes each number of a row independently of the others, such as by a factor; it then also
            gets updates of texts that are stored by the rows of the table that a client touched. Otherwise it gets all
            D columns, and texts train the whole table.
    """

    name: str
    local_triggers: tuple[Trigger, ...]
    full_trigger: Trigger
    poison_fraction: float
    tamper: Tamper
    needs_all_columns: bool | None = None
    row_wise: bool = False
