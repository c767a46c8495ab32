"""A little is enough: malicious clients send the benign mean, moved by a few standard deviations in every coordinate.

Axes: M malicious clients of the round, D parameters.
"""

import math
from statistics import NormalDist

from torch import Tensor

from rflbat.attacks.base import Attack, SampleFormat, no_trigger
from rflbat.attacks.view import AttackerView
from rflbat.errors import UserError
from rflbat.randomness import Draw


def largest_z(clients: int, malicious: int) -> float:
    """Compute the largest move that a majority of the clients still exceeds.

    With ``s = floor(n / 2 + 1) - f`` supporters, ``z`` is the quantile ``(n - f - s) / (n - f)`` of the normal
    distribution.

    Args:
        clients: n.
        malicious: f, 0 to n.

    Returns:
        z, at least 0. If the malicious clients are a majority, they need no supporter, and z is that of one benign
        client in ``n - f``.

    Example:
        >>> round(largest_z(50, 24), 2)
        1.43
    """
    benign = clients - malicious
    if benign < 2:
        return 0.0
    supporters = max(1, clients // 2 + 1 - malicious)
    return max(0.0, NormalDist().inv_cdf((benign - supporters) / benign))


def alie(samples: SampleFormat, scale: float, *, z: float | None = None, ddof: int = 0, sign: str = "minus") -> Attack:
    """Send ``mean - z * std`` of the benign updates in every coordinate, the same vector from every malicious client.

    Args:
        samples: format of the samples; any, since none is poisoned.
        scale: factor of z, 1 for none.
        z: number of standard deviations, at least 0 and finite; by default ``largest_z`` of the round.
        ddof: 0 for the standard deviation of a population (as in FLPoison), 1 for that of a sample (as in ByzFL).
        sign: ``minus``, as in the paper, or ``plus``, as in FLPoison and Blades.

    Returns:
        the attack. It is untargeted: malicious clients train on clean data, and their trained updates are discarded.

    Raises:
        UserError: a value is out of range.

    Conventions:
        The plain mean, regardless of numbers of samples. A benign update with a NaN or infinity does not count. ByzFL
        uses z = 1.5 for every n and f. With few malicious clients the quantile is negative; z is then 0, and they send
        the benign mean.

    Needs:
        All benign updates of the round; the paper estimates mean and deviation from those of the malicious clients. One
        weighted sum, and one pass for the deviation.

    Fails:
        With few malicious clients among many: z is then small, and the move is within the noise. Malicious updates are
        identical, which a defense that looks for copies finds.

    Example:
        >>> import torch
        >>> from rflbat.attacks.tampering import send_updates
        >>> updates = torch.tensor([[1.0, 2.0], [3.0, 2.0], [0.0, 0.0]])
        >>> send_updates(alie(SampleFormat((1, 28, 28), 1.0), 1.0, z=1.0), updates, torch.tensor([2]))[2].tolist()
        [1.0, 2.0]

    Source: Baruch, Baruch and Goldberg 2019, "A little is enough: Circumventing defenses for distributed learning",
    algorithm 3.
    """
    if z is not None and not 0 <= z < math.inf:
        raise UserError(f"attack 'alie': z={z} is out of range; allowed: finite numbers of at least 0")
    if ddof not in (0, 1):
        raise UserError(f"attack 'alie': ddof={ddof} is out of range; allowed: 0 or 1")
    if sign not in ("minus", "plus"):
        raise UserError(f"attack 'alie': sign={sign!r}; allowed: minus, plus")
    direction = scale if sign == "plus" else -scale

    def tamper(own_MD: Tensor, view: AttackerView, draw: Draw) -> Tensor:
        move = direction * (largest_z(view.clients, view.malicious) if z is None else z)
        return view.benign.mean_D.add(view.benign.std_D(ddof), alpha=move).expand_as(own_MD)

    return Attack(
        "alie",
        (no_trigger,),
        no_trigger,
        0.0,
        tamper,
        needs_all_columns=False,
        knowledge="omniscient",
        success="untargeted",
    )
