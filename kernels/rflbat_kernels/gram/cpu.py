"""Gram matrix, weighted sum and finiteness of the rows of a wide matrix on a CPU, by numpy and one worker per thread.

The operations take CPU tensors only and return the same as those in ``torch.py`` up to rounding. The matrix is streamed
over cache-sized blocks of columns.
Axes: N rows (clients), D columns (parameters), M rows that are read, B columns of one block.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rflbat_kernels.gram.base import (
    BLOCK_BYTES,
    LARGEST,
    Gram,
    check_mask,
    check_matrix,
    check_weights,
    gram_from,
    stand_ins,
)
from rflbat_kernels.gram.shares import CACHED_BYTES, block_width, blocks, in_shares

SELECTED = 8
"""Cost of extracting a column from a block and writing it back, relative to updating a column in place."""


@torch.no_grad()
def gram(matrix_ND: Tensor, valid_N: Tensor | None = None, *, block_bytes: int = BLOCK_BYTES) -> Gram:
    """Compute the inner products of all pairs of rows on a CPU, in one pass over the matrix.

    The formulas are those of the torch implementation. Each torch thread processes blocks of its own share of the
    columns, by numpy's symmetric product.

    Args:
        matrix_ND: any float type, any strides. No gradient is recorded.
        valid_N: bool, mask of valid rows; the others may hold NaN or Inf. None: all are valid.
        block_bytes: maximum size of the float64 copy of one block of columns; at least 1. A block has 4 MiB, or more if
            there are more than 512 rows.

    Returns:
        the three matrices; rows and columns of invalid rows are 0.

    Raises:
        ValueError: wrong shape or type.

    Example:
        >>> gram(torch.tensor([[1.0, 2.0], [3.0, 2.0]])).raw_NN.tolist()
        [[5.0, 7.0], [7.0, 13.0]]
    """
    check_matrix(matrix_ND, block_bytes)
    rows = len(matrix_ND)
    check_mask(valid_N, rows)
    if 0 in matrix_ND.shape:
        return Gram(*torch.zeros(3, rows, rows, dtype=torch.float64))
    row_N = None if valid_N is None or bool(valid_N.all()) else stand_ins(valid_N)
    return gram_from(*_anchored_products(matrix_ND, row_N, block_bytes), valid_N)


def _anchored_products(matrix_ND: Tensor, row_N: Tensor | None, block_bytes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sum products of the rows relative to the column anchors, c = d - r: ``<c_i, c_j>``, ``<c_i, r>``, ``<r, r>``."""
    rows, columns = matrix_ND.shape

    @torch.no_grad()
    def share(start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        sum_NN, product_NN = np.zeros((rows, rows)), np.empty((rows, rows))
        along_N, square = np.zeros(rows), np.zeros(())
        width = block_width(matrix_ND, block_bytes)
        for _, given_NB, block_NB in blocks(matrix_ND.detach(), row_N, width, start, stop):
            # Not by DLPack, which returns read-only arrays with some versions of torch.
            anchor_B, block = np.asarray(_column_anchors(given_NB).to(torch.float64)), np.asarray(block_NB)
            # With many rows, few columns have entries of one sign only; an anchor of 0 needs no subtraction.
            away_S: Any = np.flatnonzero(anchor_B)
            away_S = away_S if SELECTED * len(away_S) <= len(anchor_B) else slice(None)
            anchor_S = anchor_B[away_S]
            with np.errstate(all="ignore"):
                block[:, away_S] -= anchor_S
                along_N += block[:, away_S] @ anchor_S
                square += anchor_S @ anchor_S
                # Numpy recognises A A' and computes only half of the products.
                sum_NN += np.matmul(block, block.T, out=product_NN)
        return torch.from_numpy(sum_NN), torch.from_numpy(along_N), torch.from_numpy(square)

    first, *others = in_shares(share, columns, rows * rows * columns)
    for other in others:
        for total, part in zip(first, other, strict=True):
            total.add_(part)
    return first


def _column_anchors(block_NB: Tensor) -> Tensor:
    """Return the anchors (B,) of a block; numpy reduces columns twice as fast as torch, but has no bfloat16."""
    if block_NB.dtype in (torch.float32, torch.float64):
        block = np.from_dlpack(block_NB.detach())
        ends = np.minimum.reduce(block, 0), np.maximum.reduce(block, 0)
        lowest_B, highest_B = map(torch.from_numpy, ends)
    else:
        lowest_B, highest_B = block_NB.amin(0), block_NB.amax(0)
    return lowest_B.clamp_min_(0.0).add_(highest_B.clamp_max_(0.0))


@torch.no_grad()
def weighted_sum(weights_N: Tensor, matrix_ND: Tensor, *, block_bytes: int = BLOCK_BYTES) -> Tensor:
    """Compute ``sum_i w_i d_i`` in float64 on a CPU, in one read of the rows of nonzero weight.

    Args:
        weights_N: finite, any float type.
        matrix_ND: any float type, any strides. No gradient is recorded.
        block_bytes: maximum size of the float64 copy of one block of columns; at least 1. A block has at most 4 MiB.

    Returns:
        (D,) in the dtype of the matrix.

    Raises:
        ValueError: wrong shape or type.

    Example:
        >>> weighted_sum(torch.tensor([0.5, 0.0]), torch.tensor([[2.0, 4.0], [torch.inf, torch.nan]])).tolist()
        [1.0, 2.0]
    """
    check_matrix(matrix_ND, block_bytes)
    weights_N = check_weights(weights_N, len(matrix_ND))
    rows, columns = matrix_ND.shape
    sum_D = torch.zeros(columns, dtype=matrix_ND.dtype)
    used_M = torch.from_numpy(np.flatnonzero(np.from_dlpack(weights_N.detach())))
    if not len(used_M) or not columns:
        return sum_D
    weights_M, rows_M = weights_N[used_M], None if len(used_M) == rows else used_M

    @torch.no_grad()
    def share(start: int, stop: int) -> None:
        width = max(1, min(block_bytes, CACHED_BYTES) // (8 * len(used_M)))
        sum_B = torch.empty(min(width, stop - start), dtype=torch.float64)
        for left, _, block_MB in blocks(matrix_ND, rows_M, width, start, stop):
            wide = block_MB.shape[1]
            sum_D[left : left + wide] = torch.mv(block_MB.T, weights_M, out=sum_B[:wide])

    in_shares(share, columns, 4 * len(used_M) * columns)
    return sum_D


@torch.no_grad()
def distances_to_sum(
    weights_N: Tensor, matrix_ND: Tensor, valid_N: Tensor | None = None, *, block_bytes: int = BLOCK_BYTES
) -> Tensor:
    """Compute ``||d_i - sum_j w_j d_j||`` from explicit differences in float64 on a CPU, in one read of the matrix.

    Args:
        weights_N: finite, any float type; 0 for invalid rows.
        matrix_ND: any float type, any strides. No gradient is recorded.
        valid_N: bool, mask of valid rows; the others may hold NaN or Inf. None: all are valid.
        block_bytes: maximum size of the float64 copy of one block of columns; at least 1. A block has at most 4 MiB.

    Returns:
        (N,) float64; 0 for invalid rows.

    Raises:
        ValueError: wrong shape or type.

    Example:
        >>> distances_to_sum(torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 0.0], [6.0, 8.0]])).tolist()
        [5.0, 5.0]
    """
    check_matrix(matrix_ND, block_bytes)
    rows, columns = matrix_ND.shape
    check_mask(valid_N, rows)
    weights_N = check_weights(weights_N, rows)
    if 0 in matrix_ND.shape:
        return torch.zeros_like(weights_N)
    rows_M = None if valid_N is None or bool(valid_N.all()) else torch.arange(rows)[valid_N]
    weights_M = weights_N if rows_M is None else weights_N[rows_M]
    width = max(1, min(block_bytes, CACHED_BYTES) // (8 * rows))

    @torch.no_grad()
    def share(start: int, stop: int) -> Tensor:
        total_M = torch.zeros_like(weights_M)
        for _, _, block_MB in blocks(matrix_ND, rows_M, width, start, stop):
            block_MB.sub_(weights_M @ block_MB)
            total_M += torch.linalg.vector_norm(block_MB, dim=1).square_()
        return total_M

    distance_M = torch.stack(in_shares(share, columns, 8 * rows * columns)).sum(0).sqrt()
    return distance_M if rows_M is None else torch.zeros_like(weights_N).index_copy(0, rows_M, distance_M)


@torch.no_grad()
def finite_rows(matrix_ND: Tensor) -> Tensor:
    """Mark the rows without NaN, Inf or an entry beyond 1e100, on a CPU.

    For float32 the row sums are tested first, at memory bandwidth: if a sum is finite, so is the row. Otherwise, and
    for other dtypes, the smallest and largest entry of each row are tested.

    Args:
        matrix_ND: any float type, any strides.

    Returns:
        (N,) bool; rows without entries are finite.

    Raises:
        ValueError: wrong shape or type.

    Example:
        >>> finite_rows(torch.tensor([[1.0, 2.0], [torch.nan, 0.0], [0.0, -torch.inf]])).tolist()
        [True, False, False]
    """
    check_matrix(matrix_ND)
    if matrix_ND.shape[1] == 0:
        return torch.ones(len(matrix_ND), dtype=torch.bool)
    if matrix_ND.dtype == torch.float32:
        finite_N = _finite_sums(matrix_ND)
        if bool(finite_N.all()):
            return finite_N
    return (_extremes(matrix_ND).abs() <= min(LARGEST, torch.finfo(matrix_ND.dtype).max)).all(0)


def _finite_sums(matrix_ND: Tensor) -> Tensor:
    """Mark the rows of a float32 matrix whose sum is finite; a sum of finite numbers may overflow."""
    rows, columns = matrix_ND.shape
    width = max(1, CACHED_BYTES // max(1, rows))
    ones_B = torch.ones(min(width, columns))

    @torch.no_grad()
    def share(start: int, stop: int) -> Tensor:
        parts = (matrix_ND[:, left : min(left + width, stop)] for left in range(start, stop, width))
        return torch.stack([part_NB @ ones_B[: part_NB.shape[1]] for part_NB in parts]).isfinite().all(0)

    return torch.stack(in_shares(share, columns, 2 * rows * columns)).all(0)


def _extremes(matrix_ND: Tensor) -> Tensor:
    """Compute the smallest and largest entry of each row, (2, N), in one read; NaN if the row holds a NaN."""
    rows, columns = matrix_ND.shape
    width = max(1, CACHED_BYTES // (8 * max(1, rows)))

    @torch.no_grad()
    def share(start: int, stop: int) -> Tensor:
        parts = [matrix_ND[:, left : min(left + width, stop)] for left in range(start, stop, width)]
        found = [torch.stack([part_NB.amin(1), part_NB.amax(1)]) for part_NB in parts]
        lowest_N, highest_N = torch.stack(found, 2).unbind(0)
        return torch.stack([lowest_N.amin(1), highest_N.amax(1)])

    lowest_N, highest_N = torch.stack(in_shares(share, columns, 2 * rows * columns), 2).unbind(0)
    return torch.stack([lowest_N.amin(1), highest_N.amax(1)])
