"""Distances and cosines between rows, from their Gram matrix or from points of the plane.

Axes: N rows, H coordinates.
"""

import torch
from torch import Tensor


def _check_square(gram_NN: Tensor) -> None:
    if gram_NN.ndim != 2 or gram_NN.shape[0] != gram_NN.shape[1]:
        raise ValueError(f"the Gram matrix has shape {tuple(gram_NN.shape)}, allowed: (N, N)")


@torch.no_grad()
def squared_distances(*grams_NN: Tensor) -> Tensor:
    """Compute `||d_i - d_j||^2 = G_ii + G_jj - 2 G_ij` from one or more Gram matrices of the same rows.

    The rounding error of a pair is a few eps of `G_ii + G_jj`, so the origin matters: about the mean, a large common
    part does not hurt; about 0, a far outlier hurts no pair but its own. Given several Gram matrices, each pair is read
    from the one where `G_ii + G_jj` is smallest.

    Args:
        grams_NN: inner products about any origins, e.g. `gram(x).centred_NN` alone, or both as `*gram(x)`.

    Returns:
        (N, N) float64, at least 0, 0 on the diagonal. A row that the Gram masked counts as the origin.

    Raises:
        ValueError: none given, or not square.

    Example:
        >>> squared_distances(torch.tensor([[1.0, 0.0], [0.0, 4.0]])).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
    """
    if not grams_NN:
        raise ValueError("no Gram matrix was given, allowed: one or more")
    result_NN = torch.full_like(grams_NN[0], torch.inf, dtype=torch.float64)
    smallest_NN = result_NN
    for gram_NN in grams_NN:
        _check_square(gram_NN)
        gram_NN = gram_NN.to(torch.float64)
        squares_N = gram_NN.diagonal()
        size_NN = squares_N[:, None] + squares_N[None, :]
        result_NN = torch.where(size_NN >= smallest_NN, result_NN, (size_NN - 2 * gram_NN).clamp_min(0.0))
        smallest_NN = torch.minimum(smallest_NN, size_NN)
    return result_NN.fill_diagonal_(0.0)


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
