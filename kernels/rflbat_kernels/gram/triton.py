"""The Gram matrix of a wide matrix in Triton for CUDA devices: anchoring, products and sums in one kernel.

Axes: N rows (clients), D columns (parameters), S slabs of columns, P rows padded to whole tiles, T rows of one tile,
B columns of one step.
"""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from rflbat_kernels.gram.base import BLOCK_BYTES, Gram, check_mask, check_matrix, gram_from, stand_ins

TILE = 64
"""Maximum rows of a tile; a matrix with at most this many rows is anchored and multiplied in one read."""
PROGRAMS = 512
"""Approximate number of concurrent programs; more slabs would only enlarge the workspace."""
_STEP = 32


@triton.jit  # type: ignore[untyped-decorator]
def _rows_at(
    stand_in_N: tl.tensor, first: tl.tensor, rows: tl.tensor, MASKED: tl.constexpr, T: tl.constexpr
) -> tl.tensor:
    """Compute the row indices of a tile; padding repeats the last row, and invalid rows are replaced."""
    row_T = tl.minimum(first + tl.arange(0, T), rows - 1).to(tl.int64)
    if MASKED:
        row_T = tl.load(stand_in_N + row_T)
    return row_T


@triton.jit  # type: ignore[untyped-decorator]
def _read(address_TB: tl.tensor, inside_B: tl.tensor) -> tl.tensor:
    """Load a tile in float64; columns beyond the last one are 0."""
    value_TB = tl.load(address_TB, mask=inside_B[None, :], other=0.0).to(tl.float64)
    if address_TB.dtype.element_ty.primitive_bitwidth == 16:
        # Triton 3.8 chooses the layout of dot operands by the width of the loaded type, and cannot lower float64 in a
        # 16-bit layout. A reduction over an axis of size 1 hides the load from it.
        value_TB = tl.max(value_TB[:, :, None], 2)
    return value_TB


@triton.jit  # type: ignore[untyped-decorator]
def _anchors_kernel(
    matrix_ND: tl.tensor,
    stand_in_N: tl.tensor,
    anchor_D: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    MASKED: tl.constexpr,
    T: tl.constexpr,
    B: tl.constexpr,
) -> None:
    """Compute the anchors of B columns, tile by tile."""
    column_B = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    inside_B = column_B < columns
    lowest_B = tl.full([B], float("inf"), tl.float64)
    highest_B = tl.full([B], float("-inf"), tl.float64)
    for first in range(0, rows, T):
        row_T = _rows_at(stand_in_N, first, rows, MASKED, T)
        address_TB = matrix_ND + (row_T[:, None] * row_stride + column_B[None, :] * column_stride)
        value_TB = tl.load(address_TB, mask=inside_B[None, :], other=0.0).to(tl.float64)
        lowest_B = tl.minimum(lowest_B, tl.min(value_TB, 0))
        highest_B = tl.maximum(highest_B, tl.max(value_TB, 0))
    anchor_B = tl.maximum(lowest_B, 0.0) + tl.minimum(highest_B, 0.0)
    tl.store(anchor_D + column_B, anchor_B.to(anchor_D.dtype.element_ty), mask=inside_B)


@triton.jit  # type: ignore[untyped-decorator]
def _products_kernel(
    matrix_ND: tl.tensor,
    stand_in_N: tl.tensor,
    anchor_D: tl.tensor,
    upper_SPP: tl.tensor,
    along_SP: tl.tensor,
    square_S: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    slab: tl.tensor,
    tiles: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    MASKED: tl.constexpr,
    ALONE: tl.constexpr,
    T: tl.constexpr,
    B: tl.constexpr,
) -> None:
    """Sum the products of two tiles of rows over one slab of columns. ALONE: a single tile holds all rows."""
    split = tl.program_id(1).to(tl.int64)
    pair = tl.program_id(0).to(tl.int64)
    top, left = pair // tiles, pair % tiles
    if left < top:
        return
    top_T = _rows_at(stand_in_N, top * T, rows, MASKED, T)
    left_T = _rows_at(stand_in_N, left * T, rows, MASKED, T)
    sum_TT = tl.zeros([T, T], tl.float64)
    along_T = tl.zeros([T], tl.float64)
    square_B = tl.zeros([B], tl.float64)
    for start in range(0, slab, B):
        column_B = split * slab + start + tl.arange(0, B)
        inside_B = column_B < columns
        address_B = matrix_ND + column_B * column_stride
        top_TB = _read(address_B[None, :] + top_T[:, None] * row_stride, inside_B)
        if ALONE:
            anchor_B = tl.maximum(tl.min(top_TB, 0), 0.0) + tl.minimum(tl.max(top_TB, 0), 0.0)
            top_TB -= anchor_B[None, :]
            left_TB = top_TB
        else:
            anchor_B = tl.load(anchor_D + column_B, mask=inside_B, other=0.0).to(tl.float64)
            left_TB = _read(address_B[None, :] + left_T[:, None] * row_stride, inside_B) - anchor_B[None, :]
            top_TB -= anchor_B[None, :]
        sum_TT = tl.dot(top_TB, tl.trans(left_TB), sum_TT, out_dtype=tl.float64)
        along_T += tl.sum(top_TB * anchor_B[None, :], 1)
        square_B += anchor_B * anchor_B
    within_T = tl.arange(0, T)
    row_T = split * tiles * T + top * T + within_T
    tl.store(upper_SPP + (row_T[:, None] * tiles * T + left * T + within_T[None, :]), sum_TT)
    if left == top:
        tl.store(along_SP + row_T, along_T)
        if top == 0:
            tl.store(square_S + split, tl.sum(square_B, 0))


def check_launch(op: str, *tensors: Tensor | None) -> None:
    """Check that a Triton kernel can access the tensors.

    Args:
        op: name of the operation, for the error message.
        tensors: must all be on one CUDA device, or on the CPU if Triton interprets its kernels; None is ignored.

    Raises:
        ValueError: tensors on another device, or on several devices.
    """
    allowed = ("cuda", "cpu") if triton.knobs.runtime.interpret else ("cuda",)
    devices = {tensor.device for tensor in tensors if tensor is not None}
    if len(devices) > 1 or any(device.type not in allowed for device in devices):
        found = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"{op}=triton got tensors on {found}; allowed: one device of {', '.join(allowed)}")


def _slabs(rows: int, columns: int, block_bytes: int) -> tuple[int, int, int, int]:
    """Return rows per tile, tiles, columns per slab and slabs, from the shape only, so that every device sums alike."""
    tile = min(TILE, max(16, triton.next_power_of_2(rows)))
    tiles = triton.cdiv(rows, tile)
    most = min(PROGRAMS // (tiles * (tiles + 1) // 2), block_bytes // (8 * (tiles * tile) ** 2))
    slab = triton.cdiv(columns, max(1, most) * _STEP) * _STEP
    return tile, tiles, slab, triton.cdiv(columns, slab) if columns else 1


@torch.no_grad()
def gram(matrix_ND: Tensor, valid_N: Tensor | None = None, *, block_bytes: int = BLOCK_BYTES) -> Gram:
    """Compute the inner products of all pairs of rows by float64 products of anchored tiles.

    The formulas are those of the torch implementation. With up to 64 rows the matrix is read once: a program anchors a
    step of columns in registers and multiplies it by itself. With more rows, a first kernel computes the anchors, and
    each pair of tiles on or above the diagonal reads its own rows. Each slab of columns writes its partial sums to a
    workspace, which is summed in a fixed order: no atomics, and bit-identical results in every run.

    Args:
        matrix_ND: float16, bfloat16, float32 or float64, any strides, on a CUDA device. No gradient is recorded.
        valid_N: bool, mask of valid rows; the others may hold NaN or Inf. None: all are valid.
        block_bytes: maximum size of the workspace, at least 1; exceeded only if a single slab needs more.

    Returns:
        the three matrices; rows and columns of invalid rows are 0.

    Raises:
        ValueError: wrong shape, type or device.

    Example:
        >>> gram(torch.tensor([[1.0, 2.0], [3.0, 2.0]]).cuda()).raw_NN.tolist()  # doctest: +SKIP
        [[5.0, 7.0], [7.0, 13.0]]

    Source: Gower 1966 (the mean as origin).
    """
    check_matrix(matrix_ND, block_bytes)
    rows, columns = matrix_ND.shape
    check_mask(valid_N, rows)
    check_launch("gram", matrix_ND, valid_N)
    if rows == 0:
        return Gram(*(matrix_ND.new_zeros(0, 0, dtype=torch.float64) for _ in range(3)))
    tile, tiles, slab, slabs = _slabs(rows, columns, block_bytes)
    alone, masked = tiles == 1, valid_N is not None
    stand_in_N = matrix_ND if valid_N is None else stand_ins(valid_N)
    anchor_dtype = torch.promote_types(matrix_ND.dtype, torch.float32)
    anchor_D = matrix_ND if alone else torch.empty(columns, dtype=anchor_dtype, device=matrix_ND.device)
    shapes = ((slabs, tiles * tile, tiles * tile), (slabs, tiles * tile), (slabs,))
    sums = [torch.empty(shape, dtype=torch.float64, device=matrix_ND.device) for shape in shapes]
    with torch.cuda.device(matrix_ND.get_device()):  # -1 for a CPU tensor, which is a no-op
        if not alone and columns:
            _anchors_kernel[(triton.cdiv(columns, 128),)](
                matrix_ND, stand_in_N, anchor_D, rows, columns, *matrix_ND.stride(), masked, 32, 128
            )
        _products_kernel[(tiles * tiles, slabs)](
            *(matrix_ND, stand_in_N, anchor_D, *sums, rows, columns, slab, tiles, *matrix_ND.stride()),
            *(masked, alone, tile, _STEP),
        )
    upper_NN, along_N, anchor_square = (part.sum(0) for part in sums)
    upper_NN, along_N = upper_NN[:rows, :rows], along_N[:rows]
    anchored_NN = upper_NN.triu() + upper_NN.triu(1).T
    return gram_from(anchored_NN, along_N, anchor_square, valid_N)
