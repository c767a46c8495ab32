"""Distances and cosines between rows, from their Gram matrix or from points with few coordinates.

Axes: N rows, H coordinates.
"""

import math

import torch
from torch import Tensor

from rflbat_kernels.gram.base import BLOCK_BYTES


def _check_square(gram_NN: Tensor) -> None:
    if gram_NN.ndim != 2 or gram_NN.shape[0] != gram_NN.shape[1]:
        raise ValueError(f"the Gram matrix has shape {tuple(gram_NN.shape)}; allowed: (N, N)")


@torch.no_grad()
def squared_distances(gram_NN: Tensor) -> Tensor:
    """Compute ``||d_i - d_j||^2 = G_ii + G_jj - 2 G_ij``.

    The rounding error of a pair is a few eps times ``G_ii + G_jj``, so the origin matters: about 0, accuracy suffers
    from a large common part; about the mean, from a distant row; about the anchors, from neither.

    Args:
        gram_NN: inner products about any origin; most accurate with ``gram(x).anchored_NN``.

    Returns:
        (N, N) float64, at least 0, 0 on the diagonal. A row that is masked in the Gram matrix counts as the origin.

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
    """Compute ``G_ij / sqrt(G_ii G_jj)``.

    Each entry is divided by the larger norm, then by the smaller one, so that no product of squares can overflow, and
    finally normalised by the resulting diagonal: rows with equal inner products have a cosine of exactly 1.

    Args:
        raw_gram_NN: inner products about the origin.

    Returns:
        (N, N) float64 in [-1, 1]; a zero row has cosine 0 with every row, including itself.

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
    """Compute the Euclidean distances between points from explicit differences, without cancellation.

    Meant for few coordinates (the plane of RFLBAT has 2).

    Args:
        points_NH: any float type; batch axes may precede.

    Returns:
        (..., N, N) float64, exactly symmetric, 0 on the diagonal.

    Raises:
        ValueError: fewer than two axes.

    Example:
        >>> distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
    """
    if points_NH.ndim < 2:
        raise ValueError(f"the points have shape {tuple(points_NH.shape)}; allowed: (..., N, H)")
    points_NH = points_NH.to(torch.float64)
    return torch.cdist(points_NH, points_NH, compute_mode="donot_use_mm_for_euclid_dist")


@torch.no_grad()
def distance_sums(points_NH: Tensor, valid_N: Tensor | None = None, *, block_bytes: int = BLOCK_BYTES) -> Tensor:
    """Compute ``G_i = sum_j ||x_i - x_j||`` over the valid points, from explicit differences, by blocks of rows.

    Args:
        points_NH: any float type; batch axes may precede.
        valid_N: bool, mask of valid points, one for all sets or one for each; the others may hold NaN or Inf. None: all
            are valid.
        block_bytes: maximum size of the distances held at once, at least 1; exceeded only if a single row needs more.

    Returns:
        (..., N) float64; 0 for invalid points.

    Raises:
        ValueError: wrong shape or type.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [torch.nan, 0.0]])
        >>> distance_sums(points, torch.tensor([True, True, False])).tolist()
        [5.0, 5.0, 0.0]

    Source: Wang et al. 2022, algorithm 1, lines 15-24.
    """
    valid_N = check_points(points_NH, valid_N, block_bytes)
    points_NH = points_NH.to(torch.float64)
    *sets, points, _ = points_NH.shape
    height = max(1, block_bytes // (8 * max(1, points * math.prod(sets))))
    sums_N = points_NH.new_zeros(*sets, points)
    for start in range(0, points, height):
        rows_BH = points_NH[..., start : start + height, :]
        distances_BN = torch.cdist(rows_BH, points_NH, compute_mode="donot_use_mm_for_euclid_dist")
        sums_N[..., start : start + height] = torch.where(valid_N[..., None, :], distances_BN, 0.0).sum(-1)
    return torch.where(valid_N, sums_N, 0.0)


def check_points(points_NH: Tensor, valid_N: Tensor | None, block_bytes: int) -> Tensor:
    """Check the arguments of ``distance_sums``.

    Args:
        points_NH: must be float, (..., N, H).
        valid_N: must be bool, (N,) or (..., N), or None.
        block_bytes: must be at least 1.

    Returns:
        the mask; all True for None.

    Raises:
        ValueError: wrong shape, type or value.

    Example:
        >>> check_points(torch.ones(3, 2), None, 64).tolist()
        [True, True, True]
    """
    if points_NH.ndim < 2 or not points_NH.is_floating_point():
        shape = tuple(points_NH.shape)
        raise ValueError(f"the points are {points_NH.dtype} of shape {shape}; allowed: float (..., N, H)")
    if block_bytes < 1:
        raise ValueError(f"block_bytes is {block_bytes}; allowed: at least 1")
    *sets, points, _ = points_NH.shape
    if valid_N is None:
        return torch.ones(points, dtype=torch.bool, device=points_NH.device)
    if valid_N.dtype != torch.bool or tuple(valid_N.shape) not in ((points,), (*sets, points)):
        allowed = f"torch.bool of shape ({points},) or {(*sets, points)}"
        raise ValueError(f"the mask is {valid_N.dtype} of shape {tuple(valid_N.shape)}; allowed: {allowed}")
    return valid_N
