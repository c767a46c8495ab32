"""Weiszfeld's passes on pairwise distances: the geometric median without touching the updates again.

Axes: N clients of the round.
"""

import torch
from torch import Tensor


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
    squared_NN: Tensor, importance_N: Tensor, *, floor: Tensor, passes: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Iterate ``b_i = a_i / max(floor, ||v - d_i||)``, ``v = sum b_i d_i / sum b_i`` from the weighted mean.

    A fixed number of passes; once no coefficient changes by more than the tolerance the coefficients stand still,
    so nothing has to ask the device whether it may stop.

    Args:
        squared_NN: squared pairwise distances.
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
        pulled_N = importance_N / torch.maximum(distances_to_mix(squared_NN, mix_N), floor)
        strength = pulled_N.sum()
        next_N = pulled_N / torch.where(strength > 0, strength, 1)
        next_N = torch.where(converged, mix_N, next_N)
        converged = converged | ((next_N - mix_N).abs().amax() <= tolerance)
        mix_N = next_N
    return mix_N, converged
