"""Definitions of the operations of ``order``, in plain float64 and without care for speed, memory or rounding.

Axes: N rows (clients), D columns (parameters), V valid rows.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rflbat_kernels.order.two_means import Split


def _by_column(matrix_ND: Tensor, valid_N: Tensor | None, statistic: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a statistic to the sorted valid entries (V,) of each column; 0 if no row is valid."""
    matrix_VD = (matrix_ND if valid_N is None else matrix_ND[valid_N]).to(torch.float64)
    if not matrix_VD.numel():
        return torch.zeros(matrix_ND.shape[1], dtype=matrix_ND.dtype)
    return torch.stack([statistic(column_V.sort().values) for column_V in matrix_VD.T]).to(matrix_ND.dtype)


def _median(sorted_V: Tensor) -> Tensor:
    return (sorted_V[(len(sorted_V) - 1) // 2] + sorted_V[len(sorted_V) // 2]) / 2


def column_median(matrix_ND: Tensor, valid_N: Tensor | None = None) -> Tensor:
    """Compute ``(v_{(n-1) // 2} + v_{n // 2}) / 2`` of the n valid entries ``v_0 <= .. <= v_{n-1}`` of each column."""
    return _by_column(matrix_ND, valid_N, _median)


def column_trimmed_mean(matrix_ND: Tensor, trim: Tensor, valid_N: Tensor | None = None) -> Tensor:
    """Compute the mean of ``v_t .. v_{n-1-t}`` of each column, with t clamped to 0 .. (n-1) // 2."""

    def mean(sorted_V: Tensor) -> Tensor:
        t = max(0, min(int(trim), (len(sorted_V) - 1) // 2))
        return sorted_V[t : len(sorted_V) - t].mean()

    return _by_column(matrix_ND, valid_N, mean)


def column_central_mean(matrix_ND: Tensor, nearest: Tensor, valid_N: Tensor | None = None) -> Tensor:
    """Compute the mean of the ``nearest`` entries of each column closest to its median; ties go to the lower entry."""

    def mean(sorted_V: Tensor) -> Tensor:
        order_V = (sorted_V - _median(sorted_V)).abs().sort(stable=True).indices
        return sorted_V[order_V[: int(nearest)]].mean()

    return _by_column(matrix_ND, valid_N, mean)


def column_two_means(matrix_ND: Tensor, valid_N: Tensor | None = None) -> Split:
    """Split the sorted entries of each column after the k lowest, for the k that maximises ``(b - a) sqrt(k (n - k))``.

    a is the mean of the k lowest entries and b the mean of the others: this is the exact optimum of 2-means on a line.
    A column of equal entries has distance 0, its value as cut and no smaller side; the cut is +inf without a valid row.
    """
    dtype = matrix_ND.dtype
    if valid_N is not None and not valid_N.any():
        matrix_ND, valid_N = torch.full_like(matrix_ND, torch.inf), None
    splits = []
    for column_V in (matrix_ND if valid_N is None else matrix_ND[valid_N]).to(torch.float64).T:
        v, best = column_V.sort().values, 0.0
        split = (0.0, float(v[0]), 0)
        for k in range(1, len(v)):
            distance = float(v[k:].mean() - v[:k].mean())
            if v[k - 1] < v[k] and distance * math.sqrt(k * (len(v) - k)) > best:
                best = distance * math.sqrt(k * (len(v) - k))
                split = (distance, float(v[k - 1]), (2 * k > len(v)) - (2 * k < len(v)))
        splits.append(split)
    distance_D, cut_D, minority_D = torch.tensor(splits, dtype=torch.float64).view(-1, 3).unbind(1)
    return Split(distance_D, cut_D.to(dtype), minority_D.to(torch.int8))


def minority_counts(matrix_ND: Tensor, split: Split, chosen_D: Tensor) -> Tensor:
    """Count for each row the chosen columns in which it is in the smaller cluster; ``d <= cut`` is the lower one."""
    side_ND = torch.where(matrix_ND <= split.cut_D, -1, 1)
    return ((side_ND == split.minority_D) & chosen_D).sum(1)
