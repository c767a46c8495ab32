"""RFA: the smoothed geometric median in a few passes."""

import torch

from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.defenses.weiszfeld import distances_to_mix, weiszfeld
from rflbat.errors import UserError
from rflbat.randomness import Draw


def rfa(*, nu: float = 1e-6, passes: int = 4) -> Defense:
    """Smoothed Weiszfeld from the weighted mean: ``a_i = n_i / sum n``, ``b_i = a_i / max(nu, ||v - d_i||)``.

    Args:
        nu: smoothing, in units of the update's norm, above 0 (1e-6).
        passes: number of passes, at least 1 (4).

    Returns:
        the defense; its score is the distance to the result.

    Raises:
        UserError: a value out of its range.

    Example:
        >>> import rflbat, numpy
        >>> bool(rflbat.aggregate(numpy.array([[0.0], [0.1], [9.0]]), "rfa").update < 0.3)
        True

    Source: Pillutla, Kakade and Harchaoui 2019, algorithm 2.
    """
    if passes < 1 or nu <= 0:
        raise UserError(f"rfa: passes={passes} must be at least 1 and nu={nu} above 0")

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        centred_NN = updates.gram.centred_NN
        importance_N = torch.where(updates.valid_N, updates.sizes_N, 0)
        floor = torch.full_like(centred_NN[0, 0], nu)
        mix_N, _ = weiszfeld(centred_NN, importance_N, floor=floor, passes=passes, tolerance=0.0)
        return decide(updates, mix_N, distances_to_mix(centred_NN, mix_N))

    return Defense("rfa", ("kept", "nonfinite"), apply)
