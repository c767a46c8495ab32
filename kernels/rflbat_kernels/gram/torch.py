"""Gram matrix, weighted sum and finiteness of the rows of a wide matrix, in torch for any device.

The matrix is streamed over blocks of columns in float64, without synchronising with the device.
Axes: N rows (clients), D columns (parameters), B columns of one block.
"""

from collections.abc import Iterator

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

_CACHED = 4 * 2**20
_SLAB = 64
"""Rows of one product; slabs below the diagonal are not computed."""


def _column_blocks(matrix_ND: Tensor, block_bytes: int) -> Iterator[tuple[int, int]]:
    rows, columns = matrix_ND.shape
    width = max(1, block_bytes // (8 * max(1, rows)))
    for start in range(0, columns, width):
        yield start, min(columns, start + width)


def column_anchors(block_NB: Tensor) -> Tensor:
    """Return the anchor of each column: its value nearest to 0, or 0 if the signs differ.

    Args:
        block_NB: at least one row.

    Returns:
        (B,); the magnitude of an anchor is at most that of any entry of its column.

    Example:
        >>> column_anchors(torch.tensor([[3.0, -4.0, 1.0], [5.0, -2.0, -1.0]])).tolist()
        [3.0, -2.0, 0.0]
    """
    return block_NB.amin(0).clamp_min_(0.0).add_(block_NB.amax(0).clamp_max_(0.0))


def _anchored_products(matrix_ND: Tensor, row_N: Tensor | None, block_bytes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sum products of the rows relative to the column anchors, c = d - r: ``<c_i, c_j>``, ``<c_i, r>``, ``<r, r>``."""
    rows, device = len(matrix_ND), matrix_ND.device
    upper_NN = torch.zeros(rows, rows, dtype=torch.float64, device=device)
    along_N = torch.zeros(rows, dtype=torch.float64, device=device)
    anchor_square = torch.zeros((), dtype=torch.float64, device=device)
    for start, stop in _column_blocks(matrix_ND, block_bytes):
        columns_NB = matrix_ND[:, start:stop]
        block_NB = columns_NB if row_N is None else columns_NB.index_select(0, row_N)
        block_NB = block_NB.to(torch.float64, copy=row_N is None)
        anchor_B = column_anchors(block_NB)
        block_NB.sub_(anchor_B)
        for top in range(0, rows, _SLAB):
            upper_NN[top : top + _SLAB, top:].addmm_(block_NB[top : top + _SLAB], block_NB[top:].T)
        along_N.addmv_(block_NB, anchor_B)
        anchor_square.add_(anchor_B.dot(anchor_B))
    return upper_NN.triu() + upper_NN.triu(1).T, along_N, anchor_square


@torch.no_grad()
def gram(matrix_ND: Tensor, valid_N: Tensor | None = None, *, block_bytes: int = BLOCK_BYTES) -> Gram:
    """Compute the inner products of all pairs of rows in one pass over the matrix.

    ``centred_ij = <d_i - m, d_j - m>`` with m the mean of the valid rows, and ``raw_ij = <d_i, d_j>``. From each column
    its anchor r is subtracted first, its value nearest to 0 (0 if the signs differ). With c = d - r and
    S_ij = <c_i, c_j>: ``anchored = S``, ``centred = H S H``, ``raw_ij = S_ij + <c_i, r> + <c_j, r> + <r, r>``. In every
    column ``|r| <= |d_i|`` and ``|c_i| <= |d_i|``, so raw and anchored are accurate to the rounding of
    ``||d_i|| ||d_j||`` for EVERY pair, however large other rows are (centred to the rounding of the longest row), and a
    large common part is removed before anything is squared.
    Float64 throughout; entries up to 1e150 are safe, and entries below 1e-150 count as 0.

    Args:
        matrix_ND: any float type, any strides. No gradient is recorded.
        valid_N: bool, mask of valid rows; the others may hold NaN or Inf. None: all are valid.
        block_bytes: size of the float64 copy of one block of columns, the largest temporary; at least 1. The
            ``cpu`` implementation uses 4 MiB, or more if there are more than 512 rows.

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
        return Gram(*torch.zeros(3, rows, rows, dtype=torch.float64, device=matrix_ND.device))
    row_N = None if valid_N is None else stand_ins(valid_N)
    return gram_from(*_anchored_products(matrix_ND, row_N, block_bytes), valid_N)


@torch.no_grad()
def weighted_sum(weights_N: Tensor, matrix_ND: Tensor, *, block_bytes: int = BLOCK_BYTES) -> Tensor:
    """Compute ``sum_i w_i d_i`` in float64.

    Rows of weight 0 are skipped, even if they hold NaN or Inf.

    Args:
        weights_N: finite, any float type.
        matrix_ND: any float type, any strides. No gradient is recorded.
        block_bytes: size of the float64 copy of one block of columns, the largest temporary; at least 1. The
            ``cpu`` implementation uses at most 4 MiB and reads only rows of nonzero weight.

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
    unused_N1 = (weights_N == 0)[:, None]
    sum_D = torch.zeros(matrix_ND.shape[1], dtype=matrix_ND.dtype, device=matrix_ND.device)
    for start, stop in _column_blocks(matrix_ND, block_bytes):
        block_NB = matrix_ND[:, start:stop].to(torch.float64, copy=True).masked_fill_(unused_N1, 0.0)
        sum_D[start:stop] = weights_N @ block_NB
    return sum_D


@torch.no_grad()
def distances_to_sum(
    weights_N: Tensor, matrix_ND: Tensor, valid_N: Tensor | None = None, *, block_bytes: int = BLOCK_BYTES
) -> Tensor:
    """Compute ``||d_i - sum_j w_j d_j||`` from explicit differences in float64, in one pass over the matrix.

    A block of columns of the sum depends only on the same block of the matrix, so each block is summed, subtracted and
    squared while it is in the cache.

    Args:
        weights_N: finite, any float type; 0 for invalid rows.
        matrix_ND: any float type, any strides. No gradient is recorded.
        valid_N: bool, mask of valid rows; the others may hold NaN or Inf. None: all are valid.
        block_bytes: size of the float64 copy of one block of columns, the largest temporary; at least 1. The
            ``cpu`` implementation uses at most 4 MiB.

    Returns:
        (N,) float64; 0 for invalid rows.

    Raises:
        ValueError: wrong shape or type.

    Example:
        >>> distances_to_sum(torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 0.0], [6.0, 8.0]])).tolist()
        [5.0, 5.0]
    """
    check_matrix(matrix_ND, block_bytes)
    rows = len(matrix_ND)
    check_mask(valid_N, rows)
    weights_N = check_weights(weights_N, rows)
    if 0 in matrix_ND.shape:
        return torch.zeros_like(weights_N)
    return _distance_squares(weights_N, matrix_ND, valid_N, block_bytes).sqrt()


def _distance_squares(weights_N: Tensor, matrix_ND: Tensor, valid_N: Tensor | None, block_bytes: int) -> Tensor:
    """Sum the squared differences block by block."""
    total_N = torch.zeros_like(weights_N)
    for start, stop in _column_blocks(matrix_ND, block_bytes):
        block_NB = matrix_ND[:, start:stop].to(torch.float64, copy=True)
        if valid_N is not None:
            block_NB.masked_fill_(~valid_N[:, None], 0.0)
        block_NB.sub_(weights_N @ block_NB)
        total_N += torch.linalg.vector_norm(block_NB, dim=1).square_()
    return total_N if valid_N is None else torch.where(valid_N, total_N, 0.0)


@torch.no_grad()
def inner_products(
    matrix_ND: Tensor, vector_D: Tensor, valid_N: Tensor | None = None, *, block_bytes: int = BLOCK_BYTES
) -> Tensor:
    """Compute ``<d_i, v>`` for each row i.

    Args:
        matrix_ND: any float type, any strides.
        vector_D: v, any float type, on the same device.
        valid_N: bool, mask of valid rows; the others may hold NaN or Inf. None: all are valid.
        block_bytes: size of the float64 copy of one block of columns, the largest temporary; at least 1. On a CPU at
            most 4 MiB.

    Returns:
        (N,) float64; 0 for invalid rows.

    Raises:
        ValueError: wrong shape or type.

    Example:
        >>> inner_products(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1.0, 10.0])).tolist()
        [21.0, 43.0]
    """
    check_matrix(matrix_ND, block_bytes)
    check_mask(valid_N, len(matrix_ND))
    if vector_D.shape != matrix_ND.shape[1:] or not vector_D.is_floating_point():
        shape = tuple(vector_D.shape)
        raise ValueError(f"the vector is {vector_D.dtype} of shape {shape}; allowed: float ({matrix_ND.shape[1]},)")
    total_N = torch.zeros(len(matrix_ND), dtype=torch.float64, device=matrix_ND.device)
    most = _CACHED if matrix_ND.device.type == "cpu" else block_bytes
    for start, stop in _column_blocks(matrix_ND, min(block_bytes, most)):
        block_NB = matrix_ND[:, start:stop].to(torch.float64, copy=True)
        if valid_N is not None:
            block_NB.masked_fill_(~valid_N[:, None], 0.0)
        total_N += block_NB @ vector_D[start:stop].to(torch.float64)
    return total_N


@torch.no_grad()
def finite_rows(matrix_ND: Tensor) -> Tensor:
    """Mark the rows without NaN, Inf or an entry beyond 1e100, whose square is as good as infinite.

    Tests the smallest and largest entry of each row, without a copy of the matrix. Only float64 can hold numbers beyond
    1e100.

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
        return torch.ones(len(matrix_ND), dtype=torch.bool, device=matrix_ND.device)
    ends_2N = torch.stack([matrix_ND.amin(1), matrix_ND.amax(1)])
    return (ends_2N.abs() <= min(LARGEST, torch.finfo(matrix_ND.dtype).max)).all(0)
