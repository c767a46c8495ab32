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
"""Updates whose distances say what is typical where there are too many for all pairs."""
FEW = 20
"""Passes in which it converges as a rule: on a CPU, which stops then, they are what it costs."""


def _typical_distance(updates: Updates, over_the_matrix: bool) -> Tensor:
    """Median distance between two different updates, 0-dim; NaN where all are the same."""
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
    """The point with the smallest sum of distances to all updates: ``argmin_v sum ||v - d_i||``.

    Weiszfeld's algorithm from the mean, on pairwise distances; every client counts the same, whatever its samples.
    With more than ``64 (passes + 1)`` clients (on a CPU, which stops where it has converged, 20 passes at most count)
    it goes over the updates themselves, one read a pass: that costs less than all pairs. There the typical distance
    below is that of 64 clients.
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
        at_most = min(passes, FEW) if updates.valid_N.device.type == "cpu" else passes
        over_the_matrix = by_passes(updates, at_most)
        distances = distance_function(updates, over_the_matrix)
        typical = _typical_distance(updates, over_the_matrix)
        floor = torch.where(typical > 0, RESOLUTION * typical, SMALLEST)
        everybody_N = updates.valid_N.to(torch.float64)
        mix_N, converged = weiszfeld(distances, everybody_N, floor=floor, passes=passes, tolerance=tolerance)
        return decide(updates, mix_N, distances(mix_N), converged=converged)

    return Defense("geomed", ("kept", "nonfinite"), apply)
