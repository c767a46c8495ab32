"""Weiszfeld's passes: on pairwise distances, without touching the updates again, or over the updates themselves.

Axes: N clients of the round, D parameters.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rflbat.defenses.base import Updates
from rflbat_kernels import distances_to_sum

ROWS_PER_PASS = 64
"""A Gram matrix of so many rows costs about as much as one pass over the matrix."""


def by_passes(updates: Updates, passes: int) -> bool:
    """Say whether passes over the updates cost less than the pairwise distances, from shapes alone.

    The product takes ``N N D`` operations, a pass about ``6 N D`` and one read of the matrix; on a CPU a pass takes as
    long as the product for 64 rows: ``N > 64 (passes + 1)``, the last for the scores. Measured at 1,600 x 100,000 the
    product costs as much as 25 passes, 63 rows each (``python -m benchmarks.speed.parts``). Devices go by the same
    number, which is estimated there from their float64 rate and bandwidth, not measured.
    Row-sparse updates always go by their pairs: a pass would have to write them out.

    Args:
        updates: the round's updates.
        passes: how many there will be.

    Returns:
        whether to go over the updates.
    """
    return isinstance(updates.values, Tensor) and len(updates.valid_N) > ROWS_PER_PASS * (passes + 1)


def distance_function(updates: Updates, over_the_matrix: bool) -> Callable[[Tensor], Tensor]:
    """Make the function that gives the distance of every update to ``sum b_j d_j``, b summing to 1.

    Args:
        updates: the round's updates.
        over_the_matrix: from explicit differences, each call one read of the matrix; or from pairwise distances.

    Returns:
        coefficients ``(N,)`` -> distances ``(N,)`` float64; those of rows that are not valid are arbitrary but finite.
    """
    if over_the_matrix:
        return lambda mix_N: distances_to_sum(mix_N, updates.matrix_ND, updates.valid_N)
    squared_NN = updates.squared_distances_NN
    return lambda mix_N: distances_to_mix(squared_NN, mix_N)


def distances_to_mix(squared_NN: Tensor, mix_N: Tensor) -> Tensor:
    """Distance of every update to ``v = sum b_j d_j`` with ``sum b = 1``, from the squared pairwise distances S.

    ``||v - d_i||^2 = (S b)_i - b' S b / 2``. A Gram matrix would give the same on paper; but one huge update blurs
    all of it, while here a far update enters only as much as its small coefficient lets it.

    Args:
        squared_NN: ``||d_i - d_j||^2``.
        mix_N: coefficients b, summing to 1.

    Returns:
        distances ``(N,)``.
    """
    product_N = squared_NN @ mix_N
    return (product_N - mix_N @ product_N / 2).clamp_min(0).sqrt()


def weiszfeld(
    distances: Callable[[Tensor], Tensor], importance_N: Tensor, *, floor: Tensor, passes: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Iterate ``b_i = a_i / max(floor, ||v - d_i||)``, ``v = sum b_i d_i / sum b_i`` from the weighted mean.

    Once no coefficient changes by more than the tolerance the coefficients stand still, so nothing has to ask the
    device whether it may stop: a device takes all passes, and a CPU, which may look, ends there with the same result.

    Args:
        distances: coefficients summing to 1 -> distance of each update to that mix.
        importance_N: a_i, at least 0; 0 leaves a client out.
        floor: smallest distance divided by, 0-dim, above 0.
        passes: number of passes.
        tolerance: largest change of a coefficient that counts as converged; 0 for exactly ``passes`` passes.

    Returns:
        coefficients b ``(N,)`` summing to 1 (all 0 if every a_i is), and whether they stand still (0-dim bool).
    """
    total = importance_N.sum()
    mix_N = importance_N / torch.where(total > 0, total, 1)
    converged = torch.zeros_like(total, dtype=torch.bool)
    for _ in range(passes):
        pulled_N = importance_N / torch.maximum(distances(mix_N), floor)
        strength = pulled_N.sum()
        next_N = pulled_N / torch.where(strength > 0, strength, 1)
        next_N = torch.where(converged, mix_N, next_N)
        converged = converged | ((next_N - mix_N).abs().amax() <= tolerance)
        mix_N = next_N
        if mix_N.device.type == "cpu" and bool(converged):
            break
    return mix_N, converged
