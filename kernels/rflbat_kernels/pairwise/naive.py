"""Definitions of the operations of ``pairwise``, in plain float64 and without care for speed, memory or rounding.

Axes: N rows, H coordinates.
"""

import torch
from torch import Tensor


def squared_distances(gram_NN: Tensor) -> Tensor:
    """Compute ``||d_i - d_j||^2 = G_ii + G_jj - 2 G_ij``; negative values and the diagonal become 0."""
    gram_NN = gram_NN.to(torch.float64)
    squares_N = gram_NN.diagonal()
    squared_NN = squares_N[:, None] + squares_N - 2 * gram_NN
    return squared_NN.clamp_min(0.0).fill_diagonal_(0.0)


def cosines(raw_gram_NN: Tensor) -> Tensor:
    """Compute ``G_ij / sqrt(G_ii G_jj)``, or 0 if one of the rows is 0."""
    norms_N = raw_gram_NN.to(torch.float64).diagonal().sqrt()
    cosine_NN = raw_gram_NN / (norms_N[:, None] * norms_N)
    return torch.where((norms_N[:, None] > 0) & (norms_N > 0), cosine_NN, 0.0)


def distances(points_NH: Tensor) -> Tensor:
    """Compute ``||x_i - x_j|| = sqrt(sum_h (x_ih - x_jh)^2)``; batch axes may precede."""
    points_NH = points_NH.to(torch.float64)
    return (points_NH[..., :, None, :] - points_NH[..., None, :, :]).square().sum(-1).sqrt()


def distance_sums(points_NH: Tensor, valid_N: Tensor | None = None) -> Tensor:
    """Compute ``G_i = sum_j ||x_i - x_j||`` over the valid points j, or 0 for an invalid point i."""
    valid_N = torch.ones(points_NH.shape[-2], dtype=torch.bool) if valid_N is None else valid_N
    both_NN = valid_N[..., :, None] & valid_N[..., None, :]
    return torch.where(both_NN, distances(points_NH), 0.0).sum(-1)
