"""RFA: the smoothed geometric median in a few passes."""

import torch

from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.defenses.weiszfeld import by_passes, distance_function, weiszfeld
from rflbat.errors import UserError
from rflbat.randomness import Draw


def rfa(*, nu: float = 1e-6, passes: int = 4) -> Defense:
    """Smoothed Weiszfeld from the weighted mean: ``a_i = n_i / sum n``, ``b_i = a_i / max(nu, ||v - d_i||)``.

    On pairwise distances; over the updates themselves, one read a pass, from more than ``64 (passes + 1)`` clients on.

    Args:
        nu: smoothing, in units of the update's norm, 1e-100 to 1e100 (1e-6).
        passes: number of passes, at least 1 (4).

    Returns:
        the defense; its score is the distance to the result.

    Raises:
        UserError: a value out of its range.

    Conventions:
        Starts from the weighted mean; 4 passes, not to convergence, as the paper.

    Needs:
        The Gram matrix, or passes over the updates where there are many clients.

    Fails:
        As the geometric median; four passes from the mean also leave a scaled update some of its pull.

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
