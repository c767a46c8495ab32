"""RFA: a smoothed geometric median in a few passes."""

import torch

from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.defenses.weiszfeld import by_passes, distance_function, weiszfeld
from rflbat.errors import UserError
from rflbat.randomness import Draw


def rfa(*, nu: float = 1e-6, passes: int = 4) -> Defense:
    """Approximate the geometric median by a few smoothed Weiszfeld passes, started from the weighted mean.

    ``a_i = n_i / sum n``, ``b_i = a_i / max(nu, ||v - d_i||)``. It works on pairwise distances, and with more than ``64
    (passes + 1)`` clients on the updates themselves, at one read of the matrix per pass.

    Args:
        nu: smoothing, in units of the update's norm, 1e-100 to 1e100 (1e-6).
        passes: number of passes, at least 1 (4).

    Returns:
        the defense. Its score is the distance to the result.

    Raises:
        UserError: a value is out of range.

    Conventions:
        Starts from the weighted mean and makes 4 passes, as in the paper, rather than iterating to convergence.

    Needs:
        The Gram matrix, or passes over the updates if the round has many clients.

    Fails:
        Like the geometric median. After only four passes from the mean, a scaled update also keeps some of its pull.

    Example:
        >>> import rflbat, numpy
        >>> bool(rflbat.aggregate(numpy.array([[0.0], [0.1], [9.0]]), "rfa").update < 0.4)
        True

    Source: Pillutla, Kakade and Harchaoui 2019, algorithm 2.
    """
    if passes < 1 or not 1e-100 <= nu <= 1e100:
        raise UserError(f"rfa: passes={passes} must be at least 1 and nu={nu} a number from 1e-100 to 1e100")

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        distances = distance_function(updates, by_passes(updates, passes))
        importance_N = torch.where(updates.valid_N, updates.sizes_N, 0)
        floor = torch.full_like(updates.sizes_N[0], nu)
        mix_N, _ = weiszfeld(distances, importance_N, floor=floor, passes=passes, tolerance=0.0)
        return decide(updates, mix_N, distances(mix_N))

    return Defense("rfa", ("kept", "nonfinite"), apply)
