"""The optimal split of each column into two clusters, and the rows in the smaller clusters.

Axes: N rows (clients), D columns (parameters), B columns of one block.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from rflbat_kernels.gram.base import BLOCK_BYTES
from rflbat_kernels.order.base import Sorted, at_rank, check_matrix, column_blocks

_EQUAL = 1 + 2.0**-40
"""Splits whose merits agree to this factor count as equal."""


class Split(NamedTuple):
    """The split of each column into a lower and an upper cluster."""

    distance_D: Tensor
    """float64, distance between the two centres; 0 if all entries are equal."""
    cut_D: Tensor
    """Largest entry of the lower cluster, in the dtype of the matrix."""
    minority_D: Tensor
    """int8: -1 if the lower cluster is smaller, 1 if the upper cluster is smaller, 0 if both have the same size."""


def split_blocks(matrix_ND: Tensor, blocks: Iterable[Sorted]) -> Split:
    """Split the columns of sorted blocks into the two clusters with the smallest sum of squares.

    Args:
        matrix_ND: the matrix, for the dtype, the device and the number of columns.
        blocks: its sorted blocks of columns, from left to right.

    Returns:
        the splits.

    Example:
        >>> block = Sorted(torch.tensor([[0.0, 1.0, 9.5]]), torch.tensor(3))
        >>> split_blocks(torch.tensor([[9.5], [0.0], [1.0]]), [block]).distance_D.item()
        9.0
    """
    columns, device = matrix_ND.shape[1], matrix_ND.device
    split = Split(
        torch.zeros(columns, dtype=torch.float64, device=device),
        torch.zeros(columns, dtype=matrix_ND.dtype, device=device),
        torch.zeros(columns, dtype=torch.int8, device=device),
    )
    start = 0
    for block in blocks:
        best = _best(block)
        for whole_D, part_B in zip(split, best, strict=True):
            whole_D[start : start + len(part_B)] = part_B
        start += len(best.distance_D)
    return split


def _best(block: Sorted) -> Split:
    """Evaluate every k in float64 and keep the best split."""
    count = block.valid_rows
    anchor_B = at_rank(block.values_BN, torch.zeros_like(count)).clamp_min(0.0)
    anchor_B += at_rank(block.values_BN, count - 1).clamp_max(0.0)
    values_NB = block.values_BN.T.to(torch.float64, memory_format=torch.contiguous_format)
    valid_N1 = (torch.arange(len(values_NB), device=values_NB.device) < count)[:, None]
    centred_NB = torch.where(valid_N1, values_NB - anchor_B, 0.0)
    total_B, lower_B, distance_B, merit_B, minority_B = (torch.zeros_like(anchor_B) for _ in range(5))
    for value_B in centred_NB:
        total_B += value_B
    cut_B = values_NB[0]
    for low, value_B in enumerate(centred_NB[:-1], start=1):
        lower_B += value_B
        high = (count - low).to(torch.float64)
        gap_B = (total_B - lower_B) / high.clamp_min(1.0) - lower_B / low
        reached_B = gap_B * (low * high.clamp_min(0.0)).sqrt()
        better_B = reached_B > merit_B * _EQUAL
        merit_B = torch.where(better_B, reached_B, merit_B)
        distance_B = torch.where(better_B, gap_B, distance_B)
        cut_B = torch.where(better_B, values_NB[low - 1], cut_B)
        minority_B = torch.where(better_B, torch.sign(low - high), minority_B)
    return Split(distance_B, cut_B, minority_B)


@torch.no_grad()
def minority_counts(matrix_ND: Tensor, split: Split, chosen_D: Tensor, *, block_bytes: int = BLOCK_BYTES) -> Tensor:
    """Count for each row the chosen columns in which it is in the smaller cluster.

    Args:
        matrix_ND: the matrix that was split; the counts of rows that were invalid then are meaningless.
        split: result of ``column_two_means``.
        chosen_D: bool, mask of the columns to count.
        block_bytes: size of a float64 block of columns; at least 1.

    Returns:
        (N,) int64, the counts.

    Raises:
        ValueError: wrong shape or type.

    Example:
        >>> matrix = torch.tensor([[0.0, 5.0], [1.0, 5.0], [9.5, 5.0]])
        >>> split = Split(torch.tensor([9.0, 0.0]), torch.tensor([1.0, 5.0]), torch.tensor([1, 0]))
        >>> minority_counts(matrix, split, torch.tensor([True, True])).tolist()
        [0, 0, 1]
    """
    rows = check_matrix(matrix_ND, None, block_bytes)
    count_N = torch.zeros(rows, dtype=torch.int64, device=matrix_ND.device)
    start = 0
    for columns_NB in column_blocks(matrix_ND, block_bytes):
        here = slice(start, start + columns_NB.shape[1])
        below_NB = columns_NB <= split.cut_D[here]
        low_B, high_B = ((split.minority_D[here] == side) & chosen_D[here] for side in (-1, 1))
        count_N += ((below_NB & low_B) | (~below_NB & high_B)).sum(1)
        start = here.stop
    return count_N
