"""GeoMed: the geometric median."""

import math

import torch
from torch import Tensor

from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.defenses.weiszfeld import by_passes, distance_function, weiszfeld
from rflbat.errors import UserError
from rflbat.randomness import Draw
from rflbat_kernels import gram, masked_median, squared_distances

RESOLUTION = 1e-6
SMALLEST = 1e-150
SAMPLE = 64
"""Most updates from which the typical distance is estimated when computing all pairs would be too expensive."""
FEW = 20
"""Typical number of passes until convergence. A CPU stops at convergence, so its cost is estimated from this number."""


def _typical_distance(updates: Updates, over_the_matrix: bool) -> Tensor:
    """Compute the median distance between two different updates, 0-dim; NaN if all updates are equal."""
    valid_N = updates.valid_N
    if over_the_matrix:
        step = -(-len(valid_N) // SAMPLE)
        valid_N = valid_N[::step]
        squared_NN = squared_distances(gram(updates.matrix_ND[::step], valid_N).anchored_NN)
    else:
        squared_NN = updates.squared_distances_NN
    apart_NN = valid_N[:, None] & valid_N[None, :] & (squared_NN > 0)
    return masked_median(squared_NN.sqrt().flatten(), apart_NN.flatten())


def geomed(*, tolerance: float = 1e-9, passes: int = 200) -> Defense:
    """Return the point with the smallest sum of distances to all updates: ``argmin_v sum ||v - d_i||``.

    Weiszfeld's algorithm, started from the mean, on pairwise distances. Every client counts the same, whatever its
    number of samples. With more than ``64 (passes + 1)`` clients it works on the updates themselves, at one read of the
    matrix per pass, which costs less than all pairs. (A CPU stops at convergence, so there ``passes`` counts as at most
    20 in this bound.) In that case the typical distance below is estimated from at most 64 clients. A distance below
    1e-6 of the median distance between two different updates is raised to that value. An iterate that coincides with an
    update thus causes no 0/0 and can move away again if that update is not the median.

    Args:
        tolerance: converged when no coefficient changes by more than this, at least 0 (1e-9).
        passes: largest number of passes, at least 1 (200); ``trace["converged"]`` shows whether it was enough.

    Returns:
        the defense. Its score is the distance to the median.

    Raises:
        UserError: a value is out of range.

    Conventions:
        Every client counts the same. The number of passes is fixed, and the iterate stays constant after convergence,
        since stopping early would have to wait for the device.

    Needs:
        The Gram matrix, or passes over the updates if the round has many clients.

    Fails:
        From half malicious clients on, in theory and in experiments. Below that it lets part of the attack through.

    Example:
        >>> import rflbat, numpy
        >>> decision = rflbat.aggregate(numpy.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), "geomed")
        >>> decision.update.tolist()
        [0.5, 0.5]

    Source: Chen, Su and Xu 2017, "Distributed statistical machine learning in adversarial settings".
    """
    if passes < 1 or not 0 <= tolerance < math.inf:
        raise UserError(
            f"geomed: passes={passes} must be at least 1 and tolerance={tolerance} a finite number of at least 0"
        )

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        at_most = min(passes, FEW) if updates.valid_N.device.type == "cpu" else passes
        over_the_matrix = by_passes(updates, at_most)
        distances = distance_function(updates, over_the_matrix)
        typical = _typical_distance(updates, over_the_matrix)
        floor = torch.where(typical > 0, RESOLUTION * typical, SMALLEST)
        everybody_N = updates.valid_N.to(torch.float64)
        mix_N, converged = weiszfeld(distances, everybody_N, floor=floor, passes=passes, tolerance=tolerance)
        return decide(updates, mix_N, distances(mix_N), converged=converged)

    return Defense("geomed", ("kept", "nonfinite"), apply)
