"""Weiszfeld's algorithm on pairwise distances, without reading the updates again, or on the updates themselves.

Axes: N clients of the round, D parameters.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rflbat.defenses.base import Updates
from rflbat_kernels import distances_to_sum

ROWS_PER_PASS = 64
"""Number of rows whose Gram matrix costs about as much as one pass over the update matrix."""


def by_passes(updates: Updates, passes: int) -> bool:
    """Decide from shapes alone whether passes over the updates cost less than pairwise distances.

    The Gram product takes ``N N D`` operations; a pass takes about ``6 N D`` operations and one read of the matrix. On
    a CPU a pass takes as long as the product for 64 rows, hence ``N > 64 (passes + 1)``, where the extra pass computes
    the scores. Measured at 1,600 x 100,000, the product costs as much as 25 passes, 63 rows each (``python -m
    benchmarks.speed.parts``). GPUs use the same number; for them it is estimated from their float64 rate and bandwidth,
    not measured. Row-sparse updates always use pairwise distances, since a pass would need the dense matrix.

    Args:
        updates: the round's updates.
        passes: number of passes.

    Returns:
        whether to make passes over the updates.
    """
    return isinstance(updates.values, Tensor) and len(updates.valid_N) > ROWS_PER_PASS * (passes + 1)


def distance_function(updates: Updates, over_the_matrix: bool) -> Callable[[Tensor], Tensor]:
    """Return the function that computes the distance of every update to ``sum b_j d_j``, with b summing to 1.

    Args:
        updates: the round's updates.
        over_the_matrix: compute explicit differences, one read of the matrix per call, rather than use pairwise
            distances.

    Returns:
        function of coefficients ``(N,)`` that returns distances ``(N,)`` float64. Distances of rows that are not valid
        are arbitrary but finite.
    """
    if over_the_matrix:
        return lambda mix_N: distances_to_sum(mix_N, updates.matrix_ND, updates.valid_N)
    squared_NN = updates.squared_distances_NN
    return lambda mix_N: distances_to_mix(squared_NN, mix_N)


def distances_to_mix(squared_NN: Tensor, mix_N: Tensor) -> Tensor:
    """Compute the distance of every update to ``v = sum b_j d_j``, ``sum b = 1``, from squared pairwise distances S.

    ``||v - d_i||^2 = (S b)_i - b' S b / 2``. A Gram matrix would give the same result in exact arithmetic, but one huge
    update spoils the precision of the whole matrix. With pairwise distances, a distant update enters only in proportion
    to its small coefficient.

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

    Once no coefficient changes by more than the tolerance, the coefficients stay constant. A GPU therefore runs all
    passes without waiting to test for convergence. A CPU tests it and stops early, with the same result.

    Args:
        distances: function of coefficients summing to 1 that returns the distance of each update to that mix.
        importance_N: ``a_i``, at least 0; 0 leaves a client out.
        floor: smallest distance to divide by, 0-dim, above 0.
        passes: number of passes.
        tolerance: largest change of a coefficient that counts as converged; 0 for exactly ``passes`` passes.

    Returns:
        coefficients b ``(N,)`` summing to 1 (all 0 if every ``a_i`` is 0), and whether they have converged (0-dim
        bool).
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
