"""Distance sums of points in Triton for CUDA devices, without a matrix of distances.

Axes: M point sets, N points, H coordinates; T points of a program, B points of one step.
"""

import math

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from rflbat_kernels.gram.base import BLOCK_BYTES
from rflbat_kernels.gram.triton import check_launch
from rflbat_kernels.pairwise.torch import check_points

ROWS, ACROSS = 16, 64
"""Points per program (few, so that a thousand points occupy a GPU), and points per step."""


@triton.jit  # type: ignore[untyped-decorator]
def _sums_kernel(
    points_MNH: tl.tensor,
    valid_MN: tl.tensor,
    sums_MN: tl.tensor,
    points: tl.tensor,
    coordinates: tl.tensor,
    tiles: tl.tensor,
    set_stride: tl.tensor,
    point_stride: tl.tensor,
    coordinate_stride: tl.tensor,
    mask_stride: tl.tensor,
    T: tl.constexpr,
    B: tl.constexpr,
) -> None:
    """Sum the distances of T points of one set."""
    program = tl.program_id(0).to(tl.int64)
    chosen = program // tiles
    row_T = program % tiles * T + tl.arange(0, T)
    there_T = row_T < points
    mine_T = tl.load(valid_MN + (chosen * mask_stride + row_T), mask=there_T, other=0).to(tl.int1)
    start = points_MNH + chosen * set_stride
    sum_T = tl.zeros([T], tl.float64)
    for first in range(0, points, B):
        row_B = first + tl.arange(0, B).to(tl.int64)
        theirs_B = tl.load(valid_MN + (chosen * mask_stride + row_B), mask=row_B < points, other=0).to(tl.int1)
        squared_TB = tl.zeros([T, B], tl.float64)
        offset_T, offset_B = row_T * point_stride, row_B * point_stride
        for _ in range(coordinates):
            value_T = tl.load(start + offset_T, mask=mine_T, other=0.0).to(tl.float64)
            value_B = tl.load(start + offset_B, mask=theirs_B, other=0.0).to(tl.float64)
            difference_TB = value_T[:, None] - value_B[None, :]
            squared_TB += difference_TB * difference_TB
            offset_T += coordinate_stride
            offset_B += coordinate_stride
        sum_T += tl.sum(tl.where(theirs_B[None, :], tl.sqrt(squared_TB), 0.0), 1)
    tl.store(sums_MN + (chosen * points + row_T), tl.where(mine_T, sum_T, 0.0), mask=there_T)


@torch.no_grad()
def distance_sums(points_NH: Tensor, valid_N: Tensor | None = None, *, block_bytes: int = BLOCK_BYTES) -> Tensor:
    """Compute ``G_i = sum_j ||x_i - x_j||`` over the valid points, from explicit differences, in one kernel.

    A program computes the distances of 16 points to all others in float64, 64 at a time. The distances stay in
    registers and are summed in a fixed order.

    Args:
        points_NH: float16, bfloat16, float32 or float64, any strides, on a CUDA device; batch axes may precede.
        valid_N: bool, mask of valid points, one for all sets or one for each; the others may hold NaN or Inf. None: all
            are valid.
        block_bytes: at least 1; not used.

    Returns:
        (..., N) float64; 0 for invalid points.

    Raises:
        ValueError: wrong shape, type or device.

    Example:
        >>> distance_sums(torch.tensor([[0.0, 0.0], [3.0, 4.0]]).cuda()).tolist()  # doctest: +SKIP
        [5.0, 5.0]

    Source: Wang et al. 2022, algorithm 1, lines 15-24.
    """
    valid_N = check_points(points_NH, valid_N, block_bytes)
    check_launch("distance_sums", points_NH, valid_N)
    *sets, points, coordinates = points_NH.shape
    sums_N = torch.empty(*sets, points, dtype=torch.float64, device=points_NH.device)
    if not sums_N.numel():
        return sums_N
    points_MNH = points_NH.reshape(math.prod(sets), points, coordinates)
    mask_stride = points if valid_N.ndim > 1 else 0
    tiles = triton.cdiv(points, ROWS)
    with torch.cuda.device(points_NH.get_device()):  # -1 for a CPU tensor, which is a no-op
        _sums_kernel[(len(points_MNH) * tiles,)](
            *(points_MNH, valid_N.contiguous(), sums_N, points, coordinates, tiles),
            *(*points_MNH.stride(), mask_stride, ROWS, ACROSS),
        )
    return sums_N
