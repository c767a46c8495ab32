"""GeoMed: the geometric median."""

import torch

from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.defenses.weiszfeld import distances_to_mix, weiszfeld
from rflbat.errors import UserError
from rflbat.randomness import Draw
from rflbat_kernels import masked_median

RESOLUTION = 1e-6
SMALLEST = 1e-150


def geomed(*, tolerance: float = 1e-9, passes: int = 200) -> Defense:
    """The point with the smallest sum of distances to all updates: ``argmin_v sum ||v - d_i||``.

    Weiszfeld's algorithm from the mean, in Gram space; every client counts the same, whatever its samples.
    A distance below 1e-6 of the median distance from the mean counts as that much: so a pass that falls on an update
    is no 0/0, and can leave it again if it is not the median (distances from a Gram matrix resolve 1e-8).

    Args:
        tolerance: converged when no coefficient changes by more than this, at least 0 (1e-9).
        passes: cap on the passes, at least 1 (200); ``trace["converged"]`` says whether it was enough.

    Returns:
        the defense; its score is the distance to the median.

    Raises:
        UserError: a value out of its range.

    Example:
        >>> import rflbat, numpy
        >>> decision = rflbat.aggregate(numpy.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), "geomed")
        >>> decision.update.tolist()
        [0.5, 0.5]

    Source: Chen, Su and Xu 2017, "Distributed statistical machine learning in adversarial settings".
    """
    if passes < 1 or tolerance < 0:
        raise UserError(f"geomed: passes={passes} must be at least 1 and tolerance={tolerance} at least 0")

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        centred_NN = updates.gram.centred_NN
        typical = masked_median(centred_NN.diagonal().clamp_min(0).sqrt(), updates.valid_N)
        floor = torch.where(typical > 0, RESOLUTION * typical, SMALLEST)
        everybody_N = updates.valid_N.to(torch.float64)
        mix_N, converged = weiszfeld(centred_NN, everybody_N, floor=floor, passes=passes, tolerance=tolerance)
        return decide(updates, mix_N, distances_to_mix(centred_NN, mix_N), converged=converged)

    return Defense("geomed", ("kept", "nonfinite"), apply)
