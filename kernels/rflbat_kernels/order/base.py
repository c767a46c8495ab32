"""Checks, blocks and ranks of sorted columns that all implementations of the ``order`` operations share.

Axes: N rows (clients), D columns (parameters), B columns of one block.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from rflbat_kernels.gram.base import check_mask


class Sorted(NamedTuple):
    """A block of columns, each in ascending order along the last axis."""

    values_BN: Tensor
    """In the dtype of the matrix. Entries from rank ``valid_rows`` on are +inf, or left out on a CPU."""
    valid_rows: Tensor
    """Number of valid rows, 0-dim int64."""


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


def by_block(matrix_ND: Tensor, blocks: Iterable[Sorted], statistic: Callable[[Sorted], Tensor]) -> Tensor:
    """Compute a statistic of each column.

    Results are written directly to the output: small results allocated between the large temporaries would keep the
    allocator from reusing those, and memory would grow to the size of the matrix.

    Args:
        matrix_ND: the matrix, for the dtype and the number of columns.
        blocks: its sorted blocks of columns, from left to right.
        statistic: maps a block of sorted columns to (B,).

    Returns:
        (D,) in the dtype of the matrix.

    Example:
        >>> block = Sorted(torch.tensor([[2.0, 3.0], [1.0, 5.0]]), torch.tensor(2))
        >>> by_block(torch.tensor([[3.0, 1.0], [2.0, 5.0]]), [block], lambda block: block.values_BN[:, 0]).tolist()
        [2.0, 1.0]
    """
    found_D, start = matrix_ND.new_empty(matrix_ND.shape[1:]), 0
    for block in blocks:
        stop = start + len(block.values_BN)
        found_D[start:stop] = statistic(block)
        start = stop
    return found_D
