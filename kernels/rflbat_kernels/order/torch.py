"""Order statistics of the columns of a wide matrix, in torch for any device, streamed over blocks of columns.

Nothing synchronises with the device: positions are computed from the number of valid rows on the device.
Axes: N rows (clients), D columns (parameters), B columns of one block.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from rflbat_kernels.gram.base import BLOCK_BYTES
from rflbat_kernels.order.base import Sorted, at_rank, by_block, check_matrix, column_blocks, middle
from rflbat_kernels.order.two_means import Split, split_blocks


def sorted_blocks(matrix_ND: Tensor, valid_N: Tensor | None, block_bytes: int) -> Iterator[Sorted]:
    """Sort the valid entries of each column, one block of columns at a time; invalid entries become +inf.

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
    for columns_NB in column_blocks(matrix_ND, block_bytes):
        yield Sorted(torch.where(valid_N, columns_NB.T, torch.inf).contiguous().sort(dim=1).values, count)


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
    blocks = sorted_blocks(matrix_ND, valid_N, block_bytes)
    return by_block(matrix_ND, blocks, lambda block: torch.where(block.valid_rows > 0, middle(block), 0.0))


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

    return by_block(matrix_ND, sorted_blocks(matrix_ND, valid_N, block_bytes), mean)


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

    return by_block(matrix_ND, sorted_blocks(matrix_ND, valid_N, block_bytes), mean)


def _nearest_window(block: Sorted, width: Tensor) -> Tensor:
    """Compute the lowest rank of the window of ``width`` entries closest to the median of each column."""
    values_BN, median_B = block.values_BN, middle(block)
    first_B = torch.zeros_like(median_B, dtype=torch.int64)
    for rank in range(values_BN.shape[1]):
        above = width + rank
        nearer_B = at_rank(values_BN, above) - median_B < median_B - values_BN[:, rank]
        first_B += nearer_B & (above < block.valid_rows)
    return first_B


@torch.no_grad()
def column_two_means(matrix_ND: Tensor, valid_N: Tensor | None = None, *, block_bytes: int = BLOCK_BYTES) -> Split:
    """Split the valid entries of each column into the two clusters with the smallest sum of squares.

    For n sorted entries, let a be the mean of the k lowest and b the mean of the others. The exact 2-means solution
    maximises the merit ``(b - a) sqrt(k (n - k))``, whose square over n is the reduction of the sum of squares. Ties go
    to the smallest k.

    Args:
        matrix_ND: any float type, any strides, at least one row.
        valid_N: bool, mask of valid rows; the others may hold NaN or Inf. None: all are valid.
        block_bytes: size of the float64 copy of one block of columns; at least 1. It does not affect the result.

    Returns:
        the splits.

    Raises:
        ValueError: wrong shape or type.

    Example:
        >>> split = column_two_means(torch.tensor([[0.0, 5.0], [1.0, 5.0], [9.5, 5.0]]))
        >>> split.distance_D.tolist(), split.cut_D.tolist(), split.minority_D.tolist()
        ([9.0, 0.0], [1.0, 5.0], [1, 0])

    Source: Fisher 1958, "On grouping for maximum homogeneity".
    """
    check_matrix(matrix_ND, valid_N, block_bytes)
    return split_blocks(matrix_ND, sorted_blocks(matrix_ND, valid_N, block_bytes))
