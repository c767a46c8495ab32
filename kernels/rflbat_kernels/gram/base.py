"""Results, checks and closing steps that all implementations of the ``gram`` operations share.

Axes: N rows (clients), D columns (parameters).
"""

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_BYTES = 32 * 2**20
"""Default size of the float64 copy of one block of columns."""
LARGEST = 1e100
"""Largest magnitude that counts as finite: squares of such entries, and sums and products of those, fit in float64."""


class Gram(NamedTuple):
    """Inner products of the rows of a matrix about three origins; (N, N) float64, exactly symmetric."""

    centred_NN: Tensor
    """About the mean of the valid rows."""
    raw_NN: Tensor
    """About 0; use it for norms and cosines."""
    anchored_NN: Tensor
    """About the anchors of the columns; use it for distances, which are accurate to the rounding of the two norms."""


def check_matrix(matrix_ND: Tensor, block_bytes: int = BLOCK_BYTES) -> None:
    """Check that a matrix is float and 2-D, and a block size at least 1.

    Args:
        matrix_ND: must be a float matrix.
        block_bytes: must be at least 1.

    Raises:
        ValueError: wrong shape, type or value.

    Example:
        >>> check_matrix(torch.ones(3))
        Traceback (most recent call last):
            ...
        ValueError: the matrix is torch.float32 of shape (3,); allowed: float (N, D)
    """
    if matrix_ND.ndim != 2 or not matrix_ND.is_floating_point():
        raise ValueError(f"the matrix is {matrix_ND.dtype} of shape {tuple(matrix_ND.shape)}; allowed: float (N, D)")
    if block_bytes < 1:
        raise ValueError(f"block_bytes is {block_bytes}; allowed: at least 1")


def check_weights(weights_N: Tensor, rows: int) -> Tensor:
    """Check that there is one weight per row.

    Args:
        weights_N: any float type.
        rows: expected number of rows.

    Returns:
        the weights in float64.

    Raises:
        ValueError: wrong shape.

    Example:
        >>> check_weights(torch.ones(2), 2).dtype
        torch.float64
    """
    if weights_N.shape != (rows,):
        raise ValueError(f"weights have shape {tuple(weights_N.shape)}; allowed: ({rows},)")
    return weights_N.to(torch.float64)


def check_mask(valid_N: Tensor | None, rows: int) -> None:
    """Check that a mask is None or a bool tensor of shape (rows,).

    Args:
        valid_N: the mask.
        rows: expected number of rows.

    Raises:
        ValueError: wrong dtype or shape.

    Example:
        >>> check_mask(torch.tensor([True, False]), 3)
        Traceback (most recent call last):
            ...
        ValueError: the mask is torch.bool of shape (2,); allowed: torch.bool of shape (3,)
    """
    if valid_N is not None and (valid_N.dtype != torch.bool or valid_N.shape != (rows,)):
        shape = tuple(valid_N.shape)
        raise ValueError(f"the mask is {valid_N.dtype} of shape {shape}; allowed: torch.bool of shape ({rows},)")


def double_centre(gram_NN: Tensor, valid_N: Tensor | None = None) -> Tensor:
    """Move the origin of a Gram matrix to the mean of its valid rows.

    ``H G H`` with ``H = I - 11'/n`` over the n valid rows; all other rows and columns become 0. The result is exactly
    symmetric if G is.

    Args:
        gram_NN: inner products about any origin; invalid rows and columns may hold anything.
        valid_N: bool, mask of valid rows. None: all are valid.

    Returns:
        (N, N) float64.

    Example:
        >>> double_centre(torch.tensor([[1.0, 3.0], [3.0, 9.0]])).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]

    Source: Gower 1966.
    """
    gram_NN = gram_NN.to(torch.float64)
    if valid_N is None:
        valid_N = torch.ones(len(gram_NN), dtype=torch.bool, device=gram_NN.device)
    both_NN = valid_N[:, None] & valid_N[None, :]
    gram_NN = torch.where(both_NN, gram_NN, 0.0)
    count = valid_N.sum().clamp_min(1)
    mean_N = gram_NN.sum(1) / count
    centred_NN = gram_NN - (mean_N[:, None] + mean_N[None, :]) + mean_N.sum() / count
    return torch.where(both_NN, centred_NN, 0.0)


def stand_ins(valid_N: Tensor) -> Tensor:
    """Return a valid row to read in place of each invalid row, so that invalid rows are never read.

    Args:
        valid_N: bool, mask of valid rows.

    Returns:
        (N,) int64: i if row i is valid, otherwise the first valid row (0 if no row is valid).

    Example:
        >>> stand_ins(torch.tensor([False, True, False, True])).tolist()
        [1, 1, 1, 3]
    """
    rows = torch.arange(len(valid_N), device=valid_N.device)
    return torch.where(valid_N, rows, valid_N.to(torch.uint8).argmax())


def gram_from(anchored_NN: Tensor, along_N: Tensor, anchor_square: Tensor, valid_N: Tensor | None) -> Gram:
    """Build the three Gram matrices from products of the rows relative to the column anchors r, c = d - r.

    Args:
        anchored_NN: ``<c_i, c_j>``.
        along_N: ``<c_i, r>``.
        anchor_square: ``<r, r>``.
        valid_N: bool, mask of valid rows. None: all are valid.

    Returns:
        the three matrices; rows and columns of invalid rows are 0.

    Example:
        >>> products = torch.tensor([[0.0, 0.0], [0.0, 4.0]]), torch.tensor([0.0, 2.0]), torch.tensor(5.0)
        >>> gram_from(*products, None).raw_NN.tolist()  # of the rows (1, 2) and (3, 2)
        [[5.0, 7.0], [7.0, 13.0]]
    """
    raw_NN = anchored_NN + (along_N[:, None] + along_N[None, :]) + anchor_square
    if valid_N is not None:
        both_NN = valid_N[:, None] & valid_N[None, :]
        anchored_NN, raw_NN = torch.where(both_NN, anchored_NN, 0.0), torch.where(both_NN, raw_NN, 0.0)
    return Gram(double_centre(anchored_NN, valid_N), raw_NN, anchored_NN)
