"""Distances and cosines between rows, from their Gram matrix or from points of the plane.

Axes: N rows, H coordinates.
"""

import torch
from torch import Tensor


def _check_square(gram_NN: Tensor) -> None:
    if gram_NN.ndim != 2 or gram_NN.shape[0] != gram_NN.shape[1]:
        raise ValueError(f"the Gram matrix has shape {tuple(gram_NN.shape)}, allowed: (N, N)")


@torch.no_grad()
def squared_distances(gram_NN: Tensor) -> Tensor:
    """Compute `||d_i - d_j||^2 = G_ii + G_jj - 2 G_ij`.

    The rounding error of a pair is a few eps of `G_ii + G_jj`, so the origin matters: about 0 a large common part
    hurts, about the mean a far row does, about the anchor neither.

    Args:
        gram_NN: inner products about any origin; best is `gram(x).anchored_NN`.

    Returns:
        (N, N) float64, at least 0, 0 on the diagonal. A row that the Gram matrix masked counts as its origin.

    Raises:
        ValueError: not square.

    Example:
        >>> squared_distances(torch.tensor([[1.0, 0.0], [0.0, 4.0]])).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
    """
    _check_square(gram_NN)
    gram_NN = gram_NN.to(torch.float64)
    squares_N = gram_NN.diagonal()
    return (squares_N[:, None] + squares_N[None, :] - 2 * gram_NN).clamp_min(0.0).fill_diagonal_(0.0)


@torch.no_grad()
def cosines(raw_gram_NN: Tensor) -> Tensor:
    """Compute `G_ij / sqrt(G_ii G_jj)`.

    Divided by the larger norm, then by the smaller one, so that no product of squares can overflow, and then once more
    by what the diagonal has become: rows with equal inner products have exactly cosine 1.

    Args:
        raw_gram_NN: inner products about the origin.

    Returns:
        (N, N) float64 in [-1, 1]; a zero row has cosine 0 with everybody and with itself.

    Raises:
        ValueError: not square.

    Example:
        >>> cosines(torch.tensor([[4.0, -2.0, 0.0], [-2.0, 4.0, 0.0], [0.0, 0.0, 0.0]])).tolist()
        [[1.0, -0.5, 0.0], [-0.5, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    _check_square(raw_gram_NN)
    gram_NN = raw_gram_NN.to(torch.float64)
    norms_N = gram_NN.diagonal().clamp_min(0.0).sqrt()
    present_N = norms_N > 0
    norms_N = torch.where(present_N, norms_N, 1.0)
    near_NN = gram_NN / torch.maximum(norms_N[:, None], norms_N[None, :])
    near_NN = near_NN / torch.minimum(norms_N[:, None], norms_N[None, :])
    ones_N = torch.where(present_N, near_NN.diagonal(), 1.0)
    cosines_NN = (near_NN / (ones_N[:, None] * ones_N[None, :]).sqrt()).clamp(-1.0, 1.0)
    return torch.where(present_N[:, None] & present_N[None, :], cosines_NN, 0.0)


@torch.no_grad()
def distances(points_NH: Tensor) -> Tensor:
    """Compute the Euclidean distances between points from explicit differences: nothing cancels.

    Meant for few coordinates (the plane of RFLBAT has 2).

    Args:
        points_NH: any float type; batch axes may stand in front.

    Returns:
        (..., N, N) float64, exactly symmetric, 0 on the diagonal.

    Raises:
        ValueError: fewer than two axes.

    Example:
        >>> distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
    """
    if points_NH.ndim < 2:
        raise ValueError(f"the points have shape {tuple(points_NH.shape)}, allowed: (..., N, H)")
    points_NH = points_NH.to(torch.float64)
    return torch.cdist(points_NH, points_NH, compute_mode="donot_use_mm_for_euclid_dist")
