"""Windows of sorted columns on a CPU, where the number of valid rows is known and only those are stored.

Axes: B columns of a block, V valid rows, W rows of a window.
"""

import numpy as np
import torch
from torch import Tensor


def window_mean(values_BV: Tensor, first: Tensor, width: int) -> Tensor:
    """Average a window of each sorted column: the same sums in the same order as on any device, over W rows only.

    Args:
        values_BV: sorted columns without invalid entries.
        first: 0-dim or (B,) int64, lowest rank of the window; the window must be within the column.
        width: number of ranks in the window, at least 1.

    Returns:
        (B,) float64.

    Example:
        >>> window_mean(torch.tensor([[1.0, 4.0, 6.0], [2.0, 2.0, 9.0]]), torch.tensor([1, 0]), 2).tolist()
        [5.0, 2.0]
    """
    if first.ndim == 0:
        window_BW = values_BV[:, int(first) : int(first) + width]
    else:
        window_BW = values_BV.gather(1, first[:, None] + torch.arange(width))
    window_WB = window_BW.T.contiguous()
    anchor_B = window_WB[0].clamp_min(0.0).to(torch.float64) + window_WB[-1].clamp_max(0.0).to(torch.float64)
    # Add row by row: the order of a sum in one call would depend on the number of columns.
    sum_B = np.zeros(len(anchor_B))
    for share_B in np.asarray((window_WB - anchor_B).div_(width)):
        sum_B += share_B
    return anchor_B + torch.from_numpy(sum_B)


def nearest_window(values_BV: Tensor, median_B: Tensor, width: int) -> Tensor:
    """Find the window of the entries closest to the median; ties go to the lower window.

    Args:
        values_BV: sorted columns without invalid entries.
        median_B: float64.
        width: number of ranks in the window, 1 .. V.

    Returns:
        (B,) int64, the lowest rank of the window.

    Example:
        >>> nearest_window(torch.tensor([[-50.0, 1.5, 3.0, 4.5, 90.0]]), torch.tensor([3.0]).double(), 3).tolist()
        [1]
    """
    median_B1 = median_B[:, None]
    below, above = values_BV[:, : values_BV.shape[1] - width], values_BV[:, width:]
    return (above - median_B1 < median_B1 - below).sum(1)
