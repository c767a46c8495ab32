"""GeoMed: the geometric median."""

import math

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

    Weiszfeld's algorithm from the mean, on pairwise distances; every client counts the same, whatever its samples.
    A distance below 1e-6 of the median distance between two different updates counts as that much: so a pass that
    falls on an update is no 0/0, and can leave it again if it is not the median.

    Args:
        tolerance: converged when no coefficient changes by more than this, at least 0 (1e-9).
        passes: cap on the passes, at least 1 (200); ``trace["converged"]`` says whether it was enough.

    Returns:
        the defense; its score is the distance to the median.

    Raises:
        UserError: a value out of its range.

    Conventions:
        Every client counts the same. The passes are fixed in number and stop changing once converged, since to stop
        early is to wait for the device.

    Needs:
        The Gram matrix, or passes over the updates where there are many clients.

    Fails:
        From half malicious clients on, in theory and here; below that it lets a share of the attack through.

    Example:
        >>> import rflbat, numpy
        >>> decision = rflbat.aggregate(numpy.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), "geomed")
        >>> decision.update.tolist()
        [0.5, 0.5]

    Source: Chen, Su and Xu 2017, "Distributed statistical machine learning in adversarial settings".
    """
    if passes < 1 or not 0 <= tolerance < math.inf:
        raise UserError(f"geomed: passes={passes} must be at least 1 and tolerance={tolerance} a number from 0 on")

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        squared_NN = updates.squared_distances_NN
        apart_NN = updates.valid_N[:, None] & updates.valid_N[None, :] & (squared_NN > 0)
        typical = masked_median(squared_NN.sqrt().flatten(), apart_NN.flatten())
        floor = torch.where(typical > 0, RESOLUTION * typical, SMALLEST)
        everybody_N = updates.valid_N.to(torch.float64)
        mix_N, converged = weiszfeld(squared_NN, everybody_N, floor=floor, passes=passes, tolerance=tolerance)
        return decide(updates, mix_N, distances_to_mix(squared_NN, mix_N), converged=converged)

    return Defense("geomed", ("kept", "nonfinite"), apply)
