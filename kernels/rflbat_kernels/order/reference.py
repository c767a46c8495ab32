"""Means over a window of the sorted values of each column of a wide matrix, streamed over blocks of columns.

Axes: N rows (clients), D columns (parameters), B columns of one block.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rflbat_kernels.gram.reference import BLOCK_BYTES, check_mask
from rflbat_kernels.order import cpu

SORTED_BYTES = 2**22
"""Float64 size of a block that is sorted on a CPU, small enough to stay in the cache until its statistics are taken."""


class Sorted(NamedTuple):
    """A block of columns, each in ascending order along the last axis."""

    values_BN: Tensor
    """In the dtype of the matrix; entries from rank ``valid_rows`` on are +inf.

    On a CPU those entries are left out, unless no row is valid."""
    valid_rows: Tensor
    """Number of valid rows, 0-dim int64."""


def on_host(tensor: Tensor) -> bool:
    """Return whether reading a tensor's values needs no synchronisation, which is true only on a CPU.

    Example:
        >>> on_host(torch.ones(1))
        True
    """
    return tensor.device.type == "cpu"


def sorted_blocks(matrix_ND: Tensor, valid_N: Tensor | None, block_bytes: int) -> Iterator[Sorted]:
    """Sort the valid entries of each column, one block of columns at a time.

    Args:
        matrix_ND: any float type, any strides.
        valid_N: bool, mask of valid rows; the others may hold anything. None: all are valid.
        block_bytes: size of one block in float64; at least 1.

    Yields:
        the blocks from left to right.

    Raises:
        ValueError: wrong shape or type.

    Example:
        >>> [block.values_BN.tolist() for block in sorted_blocks(torch.tensor([[3.0, 1.0], [2.0, 5.0]]), None, 1)]
        [[[2.0, 3.0]], [[1.0, 5.0]]]
    """
    rows = check_matrix(matrix_ND, valid_N, block_bytes)
    if valid_N is None:
        valid_N = torch.ones(rows, dtype=torch.bool, device=matrix_ND.device)
    count = valid_N.sum()
    if on_host(matrix_ND) and int(count):
        rows_V = torch.arange(rows)[valid_N]
        for columns_NB in column_blocks(matrix_ND, min(block_bytes, SORTED_BYTES)):
            chosen_VB = columns_NB if len(rows_V) == rows else columns_NB.index_select(0, rows_V)
            yield Sorted(_sort_rows(chosen_VB.T.contiguous()), count)
        return
    for columns_NB in column_blocks(matrix_ND, block_bytes):
        yield Sorted(_sort_rows(torch.where(valid_N, columns_NB.T, torch.inf).contiguous()), count)


def _sort_rows(values_BN: Tensor) -> Tensor:
    """Sort along the last axis. On a CPU numpy's vectorised sort is 15 times as fast as torch's."""
    if values_BN.device.type != "cpu" or values_BN.dtype not in (torch.float32, torch.float64):
        return values_BN.sort(dim=1).values
    return torch.from_numpy(np.sort(np.from_dlpack(values_BN), axis=1))


def column_blocks(matrix_ND: Tensor, block_bytes: int) -> Iterator[Tensor]:
    """Split a matrix into blocks of columns.

    Args:
        matrix_ND: any strides; not copied.
        block_bytes: size of one block in float64; a block has at least one column.

    Yields:
        views (N, B) from left to right; none for a matrix without columns.

    Example:
        >>> [block.tolist() for block in column_blocks(torch.tensor([[1.0, 2.0, 3.0]]), 16)]
        [[[1.0, 2.0]], [[3.0]]]
    """
    rows, columns = matrix_ND.shape
    width = max(1, block_bytes // (8 * max(1, rows)))
    for start in range(0, columns, width):
        yield matrix_ND[:, start : start + width]


def check_matrix(matrix_ND: Tensor, valid_N: Tensor | None, block_bytes: int) -> int:
    """Check the arguments that all column statistics share.

    Args:
        matrix_ND: must be a float matrix with at least one row.
        valid_N: must be a bool mask of the rows, or None.
        block_bytes: must be at least 1.

    Returns:
        the number of rows.

    Raises:
        ValueError: wrong shape, type or value.

    Example:
        >>> check_matrix(torch.ones(3, 2), None, 64)
        3
    """
    if matrix_ND.ndim != 2 or not len(matrix_ND) or not matrix_ND.is_floating_point():
        shape = tuple(matrix_ND.shape)
        raise ValueError(f"the matrix is {matrix_ND.dtype} of shape {shape}; allowed: float (N, D) with N at least 1")
    if block_bytes < 1:
        raise ValueError(f"block_bytes is {block_bytes}; allowed: at least 1")
    check_mask(valid_N, len(matrix_ND))
    return len(matrix_ND)


def at_rank(values_BN: Tensor, rank: Tensor) -> Tensor:
    """Return the value of a given rank in each column.

    Args:
        values_BN: sorted columns.
        rank: 0-dim or (B,) int64; clamped to 0 .. N-1.

    Returns:
        (B,) float64.

    Example:
        >>> at_rank(torch.tensor([[1.0, 3.0], [2.0, 4.0]]), torch.tensor([0, 1])).tolist()
        [1.0, 4.0]
    """
    rank = rank.clamp(0, values_BN.shape[1] - 1)
    if rank.ndim == 0:
        return values_BN.index_select(1, rank[None])[:, 0].to(torch.float64)
    return values_BN.gather(1, rank[:, None])[:, 0].to(torch.float64)


def middle(block: Sorted) -> Tensor:
    """Compute the median of each column; for an even count, the mean of the two middle values.

    Args:
        block: sorted columns.

    Returns:
        (B,) float64; +inf if no row is valid.

    Example:
        >>> middle(Sorted(torch.tensor([[1.0, 4.0]], dtype=torch.float64), torch.tensor(2))).tolist()
        [2.5]
    """
    below_B = at_rank(block.values_BN, (block.valid_rows - 1) // 2)
    return below_B / 2 + at_rank(block.values_BN, block.valid_rows // 2) / 2


def window_mean(values_BN: Tensor, first: Tensor, count: Tensor) -> Tensor:
    """Average the values of the ranks ``first .. first + count - 1`` of each column.

    The values are taken relative to the one nearest to 0 (0 if the signs differ) and divided before they are added: no
    sum overflows, equal values give exactly that value, and values outside the window never enter the sum.

    Args:
        values_BN: sorted columns.
        first: 0-dim or (B,) int64, lowest rank of the window.
        count: 0-dim int64, number of ranks in the window; 0 gives 0.

    Returns:
        (B,) float64.

    Example:
        >>> column = torch.tensor([[1.0, 4.0, 6.0, 90.0]])
        >>> window_mean(column, torch.tensor(1), torch.tensor(2)).tolist()
        [5.0]
    """
    if _of_valid_rows(values_BN, count):
        return cpu.window_mean(values_BN, first, int(count))
    last = first + count - 1
    anchor_B = at_rank(values_BN, first).clamp_min(0.0) + at_rank(values_BN, last).clamp_max(0.0)
    rank_N1 = torch.arange(values_BN.shape[1], device=values_BN.device)[:, None]
    share_NB = (values_BN.T.contiguous() - anchor_B).div_(count)
    share_NB.masked_fill_((rank_N1 < first) | (rank_N1 > last), 0.0)
    # Add rank by rank: the rounding of a vectorised sum would depend on the position of the window.
    mean_B = torch.zeros_like(anchor_B)
    for share_B in share_NB:
        mean_B += share_B
    return torch.where(count > 0, anchor_B + mean_B, 0.0)


def _of_valid_rows(values_BN: Tensor, count: Tensor) -> bool:
    """Return whether a block holds valid entries only, as ``sorted_blocks`` yields on a CPU if any row is valid."""
    return on_host(values_BN) and bool(count > 0)


def _by_block(
    matrix_ND: Tensor, valid_N: Tensor | None, block_bytes: int, statistic: Callable[[Sorted], Tensor]
) -> Tensor:
    """Compute a statistic of each column.

    Results are written directly to the output: small results allocated between the large temporaries would keep the
    allocator from reusing those, and memory would grow to the size of the matrix.

    Args:
        matrix_ND: any float type, any strides, at least one row.
        valid_N: bool, mask of valid rows. None: all are valid.
        block_bytes: size of one block in float64; at least 1.
        statistic: maps a block of sorted columns to (B,).

    Returns:
        (D,) in the dtype of the matrix.

    Raises:
        ValueError: wrong shape or type.

    Example:
        >>> _by_block(torch.tensor([[3.0, 1.0], [2.0, 5.0]]), None, 1, lambda block: block.values_BN[:, 0])
        tensor([2., 1.])
    """
    found_D, start = matrix_ND.new_empty(matrix_ND.shape[1:]), 0
    for block in sorted_blocks(matrix_ND, valid_N, block_bytes):
        stop = start + len(block.values_BN)
        found_D[start:stop] = statistic(block)
        start = stop
    return found_D


@torch.no_grad()
def column_median(matrix_ND: Tensor, valid_N: Tensor | None = None, *, block_bytes: int = BLOCK_BYTES) -> Tensor:
    """Compute the median of the valid entries of each column; for an even count, the mean of the two middle ones.

    Args:
        matrix_ND: any float type, any strides, at least one row.
        valid_N: bool, mask of valid rows; the others may hold NaN or Inf. None: all are valid.
        block_bytes: size of the float64 copy of one block of columns; at least 1. It does not affect the result.

    Returns:
        (D,) in the dtype of the matrix; 0 if no row is valid.

    Raises:
        ValueError: wrong shape or type.

    Example:
        >>> column_median(torch.tensor([[1.0, 8.0], [2.0, 0.0], [9.0, 1.0]])).tolist()
        [2.0, 1.0]

    Source: Yin, Chen, Ramchandran and Bartlett 2018, definition 1.
    """
    return _by_block(
        matrix_ND, valid_N, block_bytes, lambda block: torch.where(block.valid_rows > 0, middle(block), 0.0)
    )


@torch.no_grad()
def column_trimmed_mean(
    matrix_ND: Tensor, trim: Tensor, valid_N: Tensor | None = None, *, block_bytes: int = BLOCK_BYTES
) -> Tensor:
    """Average the valid entries of each column without the ``trim`` smallest and the ``trim`` largest ones.

    Args:
        matrix_ND: any float type, any strides, at least one row.
        trim: 0-dim int64, at least 0; clamped to ``(n - 1) // 2`` for n valid rows, which leaves at least one entry.
        valid_N: bool, mask of valid rows; the others may hold NaN or Inf. None: all are valid.
        block_bytes: size of the float64 copy of one block of columns; at least 1. It does not affect the result.

    Returns:
        (D,) in the dtype of the matrix; 0 if no row is valid.

    Raises:
        ValueError: wrong shape or type.

    Example:
        >>> column_trimmed_mean(torch.tensor([[-50.0], [1.0], [3.0], [90.0]]), torch.tensor(1)).tolist()
        [2.0]

    Source: Yin, Chen, Ramchandran and Bartlett 2018, definition 2.
    """

    def mean(block: Sorted) -> Tensor:
        cut = torch.minimum(trim, (block.valid_rows - 1) // 2).clamp_min(0)
        return window_mean(block.values_BN, cut, block.valid_rows - 2 * cut)

    return _by_block(matrix_ND, valid_N, block_bytes, mean)


@torch.no_grad()
def column_central_mean(
    matrix_ND: Tensor, nearest: Tensor, valid_N: Tensor | None = None, *, block_bytes: int = BLOCK_BYTES
) -> Tensor:
    """Average the ``nearest`` valid entries of each column that are closest to the column's median.

    They form a window of the sorted entries: starting from the lowest one, the window moves up as long as the entry
    above it is closer to the median than its lowest entry. Ties go to the lower entry.

    Args:
        matrix_ND: any float type, any strides, at least one row.
        nearest: 0-dim int64, at least 1; clamped to the number of valid rows.
        valid_N: bool, mask of valid rows; the others may hold NaN or Inf. None: all are valid.
        block_bytes: size of the float64 copy of one block of columns; at least 1. It does not affect the result.

    Returns:
        (D,) in the dtype of the matrix; 0 if no row is valid.

    Raises:
        ValueError: wrong shape or type.

    Example:
        >>> column_central_mean(torch.tensor([[-50.0], [1.5], [3.0], [4.5], [90.0]]), torch.tensor(3)).tolist()
        [3.0]

    Source: El Mhamdi, Guerraoui and Rouault 2018, section 4.
    """

    def mean(block: Sorted) -> Tensor:
        width = torch.minimum(nearest, block.valid_rows)
        return window_mean(block.values_BN, _nearest_window(block, width), width)

    return _by_block(matrix_ND, valid_N, block_bytes, mean)


def _nearest_window(block: Sorted, width: Tensor) -> Tensor:
    """Compute the lowest rank of the window of ``width`` entries closest to the median of each column."""
    values_BN, median_B = block.values_BN, middle(block)
    if _of_valid_rows(values_BN, width):
        return cpu.nearest_window(values_BN, median_B, int(width))
    first_B = torch.zeros_like(median_B, dtype=torch.int64)
    for rank in range(values_BN.shape[1]):
        above = width + rank
        nearer_B = at_rank(values_BN, above) - median_B < median_B - values_BN[:, rank]
        first_B += nearer_B & (above < block.valid_rows)
    return first_B
