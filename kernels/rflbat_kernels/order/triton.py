"""Median and trimmed mean of each column in Triton for CUDA devices: one read of the matrix, no sorted copy.

Axes: N rows (clients), D columns (parameters), B columns of one program, R rows padded to a power of two.
"""

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from rflbat_kernels.gram.base import BLOCK_BYTES
from rflbat_kernels.gram.triton import check_launch
from rflbat_kernels.order.base import check_matrix

MOST_ROWS = 2048
"""Maximum number of rows: a program holds all rows of its columns in registers."""


@triton.jit  # type: ignore[untyped-decorator]
def _keys(value: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """Map numbers to integers of the same order by flipping all bits but the sign of negative ones; NaN comes last."""
    LAST: tl.constexpr = (1 << (BITS - 1)) - 1
    if BITS == 64:  # noqa: SIM108 - a compile-time branch; its sides have different types
        bits = value.to(tl.int64, bitcast=True)
    else:
        bits = value.to(tl.float32).to(tl.int32, bitcast=True)
    return tl.where(value == value, bits ^ ((bits >> (BITS - 1)) & LAST), LAST)


@triton.jit  # type: ignore[untyped-decorator]
def _numbers(key: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """Map keys back to numbers, in float64."""
    LAST: tl.constexpr = (1 << (BITS - 1)) - 1
    bits = key ^ ((key >> (BITS - 1)) & LAST)
    if BITS == 64:  # noqa: SIM108 - a compile-time branch
        number = bits.to(tl.float64, bitcast=True)
    else:
        number = bits.to(tl.float32, bitcast=True).to(tl.float64)
    return number


@triton.jit  # type: ignore[untyped-decorator]
def _read(
    matrix_ND: tl.tensor,
    valid_N: tl.tensor,
    column_B: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    MASKED: tl.constexpr,
    R: tl.constexpr,
    BITS: tl.constexpr,
) -> Any:
    """Load the keys of B columns and count the valid rows.

    Invalid rows are +inf, as in the torch implementation; padded rows sort after everything, beyond any requested rank.
    """
    row_R = tl.arange(0, R)
    there_R = row_R < rows
    valid_R = there_R
    if MASKED:
        valid_R = tl.load(valid_N + row_R.to(tl.int64), mask=there_R, other=0).to(tl.int1)
    address_BR = matrix_ND + (row_R.to(tl.int64)[None, :] * row_stride + column_B[:, None] * column_stride)
    wanted_BR = (column_B < columns)[:, None] & valid_R[None, :]
    value_BR = tl.load(address_BR, mask=wanted_BR, other=float("inf"))
    key_BR = tl.where(there_R[None, :], _keys(value_BR, BITS), (1 << (BITS - 1)) - 1)
    return key_BR, tl.sum(valid_R.to(tl.int32), 0)


@triton.jit  # type: ignore[untyped-decorator]
def _select(key_BR: tl.tensor, rank: tl.tensor, B: tl.constexpr, BITS: tl.constexpr) -> tl.tensor:
    """Find the key of one rank in each column, bit by bit from the highest.

    It is the largest number with at most ``rank`` keys below it.
    """
    found_B = tl.full([B], -(1 << (BITS - 1)), key_BR.dtype)
    one_B = tl.full([B], 1, key_BR.dtype)
    for step in range(BITS):
        higher_B = found_B ^ (one_B << (BITS - 1 - step))
        below_B = tl.sum((key_BR < higher_B[:, None]).to(tl.int32), 1)
        found_B = tl.where(below_B <= rank, higher_B, found_B)
    return found_B


@triton.jit  # type: ignore[untyped-decorator]
def _median_kernel(
    matrix_ND: tl.tensor,
    valid_N: tl.tensor,
    result_D: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    MASKED: tl.constexpr,
    B: tl.constexpr,
    R: tl.constexpr,
    BITS: tl.constexpr,
) -> None:
    column_B = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    key_BR, count = _read(matrix_ND, valid_N, column_B, rows, columns, row_stride, column_stride, MASKED, R, BITS)
    low_B = _select(key_BR, (count - 1) // 2, B, BITS)
    # The upper middle value is either equal to the lower one or the next value above it.
    reached_B = tl.sum((key_BR <= low_B[:, None]).to(tl.int32), 1)
    above_B = tl.min(tl.where(key_BR > low_B[:, None], key_BR, (1 << (BITS - 1)) - 1), 1)
    high_B = tl.where(reached_B > count // 2, low_B, above_B)
    median_B = _numbers(low_B, BITS) * 0.5 + _numbers(high_B, BITS) * 0.5
    median_B = tl.where(count > 0, median_B, 0.0).to(result_D.dtype.element_ty)
    tl.store(result_D + column_B, median_B, mask=column_B < columns)


@triton.jit  # type: ignore[untyped-decorator]
def _trimmed_mean_kernel(
    matrix_ND: tl.tensor,
    valid_N: tl.tensor,
    result_D: tl.tensor,
    trim: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    MASKED: tl.constexpr,
    B: tl.constexpr,
    R: tl.constexpr,
    BITS: tl.constexpr,
) -> None:
    column_B = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    key_BR, count = _read(matrix_ND, valid_N, column_B, rows, columns, row_stride, column_stride, MASKED, R, BITS)
    first = tl.maximum(tl.minimum(tl.load(trim).to(tl.int64), (count - 1) // 2), 0).to(tl.int32)
    behind = count - first
    low_B, high_B = _select(key_BR, first, B, BITS), _select(key_BR, behind - 1, B, BITS)
    lowest_B, highest_B = _numbers(low_B, BITS), _numbers(high_B, BITS)
    anchor_B = tl.maximum(lowest_B, 0.0) + tl.minimum(highest_B, 0.0)
    share = 1.0 / tl.maximum(behind - first, 1).to(tl.float64)
    between_BR = (key_BR > low_B[:, None]) & (key_BR < high_B[:, None])
    # Divide before adding, as in the torch implementation, so that no sum overflows.
    part_BR = tl.where(between_BR, (_numbers(key_BR, BITS) - anchor_B[:, None]) * share, 0.0)
    # Of the values equal to an end of the window, count only those whose ranks are inside it.
    lows_B = tl.sum((key_BR <= low_B[:, None]).to(tl.int32), 1) - first
    highs_B = behind - tl.sum((key_BR < high_B[:, None]).to(tl.int32), 1)
    ends_B = (lowest_B - anchor_B) * share * lows_B.to(tl.float64)
    ends_B += (highest_B - anchor_B) * share * highs_B.to(tl.float64)
    mean_B = tl.where(count > 0, anchor_B + (tl.sum(part_BR, 1) + ends_B), 0.0).to(result_D.dtype.element_ty)
    tl.store(result_D + column_B, mean_B, mask=column_B < columns)


def _launch(kernel: Any, op: str, matrix_ND: Tensor, valid_N: Tensor | None, block_bytes: int, *more: Tensor) -> Tensor:
    """Check the arguments and run the kernel over all columns."""
    rows, columns = check_matrix(matrix_ND, valid_N, block_bytes), matrix_ND.shape[1]
    check_launch(op, matrix_ND, valid_N, *more)
    if rows > MOST_ROWS:
        raise ValueError(f"{op}=triton got {rows} rows; allowed: at most {MOST_ROWS}")
    key_dtype = torch.float64 if matrix_ND.dtype == torch.float64 else torch.float32
    result_D = torch.empty(columns, dtype=key_dtype, device=matrix_ND.device)
    if not columns:
        return result_D.to(matrix_ND.dtype)
    filled, key_bytes = triton.next_power_of_2(rows), key_dtype.itemsize
    # Read 128 bytes of each row if they fit in registers, and never less than a memory sector of 32 bytes.
    width = (128 if filled <= 128 else 64 if filled <= 512 else 32) // key_bytes
    with torch.cuda.device(matrix_ND.get_device()):  # -1 for a CPU tensor, which is a no-op
        kernel[(triton.cdiv(columns, width),)](
            *(matrix_ND, matrix_ND if valid_N is None else valid_N.contiguous(), result_D, *more),
            *(rows, columns, *matrix_ND.stride(), valid_N is not None, width, filled, 8 * key_bytes),
            num_warps=max(1, filled * width * key_bytes // 8192),
        )
    return result_D.to(matrix_ND.dtype)


@torch.no_grad()
def column_median(matrix_ND: Tensor, valid_N: Tensor | None = None, *, block_bytes: int = BLOCK_BYTES) -> Tensor:
    """Compute the median of the valid entries of each column; for an even count, the mean of the two middle ones.

    A program loads its columns into registers as integers of the same order and finds the lower middle one bit by bit:
    each of 32 rounds (64 in float64) counts the keys below a candidate. The result equals the torch implementation's.

    Args:
        matrix_ND: float16, bfloat16, float32 or float64, any strides, on a CUDA device, 1 to 2048 rows.
        valid_N: bool, mask of valid rows; the others may hold NaN or Inf. None: all are valid.
        block_bytes: at least 1; not used.

    Returns:
        (D,) in the dtype of the matrix; 0 if no row is valid.

    Raises:
        ValueError: wrong shape, type or device, more than 2048 rows.

    Example:
        >>> column_median(torch.tensor([[1.0, 8.0], [2.0, 0.0], [9.0, 1.0]]).cuda()).tolist()  # doctest: +SKIP
        [2.0, 1.0]

    Source: Yin, Chen, Ramchandran and Bartlett 2018, definition 1.
    """
    return _launch(_median_kernel, "column_median", matrix_ND, valid_N, block_bytes)


@torch.no_grad()
def column_trimmed_mean(
    matrix_ND: Tensor, trim: Tensor, valid_N: Tensor | None = None, *, block_bytes: int = BLOCK_BYTES
) -> Tensor:
    """Average the valid entries of each column without the ``trim`` smallest and the ``trim`` largest ones.

    A program finds the two ends of the window in the same way as ``column_median`` finds its value. It then adds the
    values between them in float64, relative to the end nearest to 0, and each end as often as it occurs in the window.

    Args:
        matrix_ND: float16, bfloat16, float32 or float64, any strides, on a CUDA device, 1 to 2048 rows.
        trim: 0-dim int64 on the same device, at least 0; clamped to ``(n - 1) // 2`` for n valid rows.
        valid_N: bool, mask of valid rows; the others may hold NaN or Inf. None: all are valid.
        block_bytes: at least 1; not used.

    Returns:
        (D,) in the dtype of the matrix; 0 if no row is valid.

    Raises:
        ValueError: wrong shape, type or device, more than 2048 rows.

    Example:
        >>> matrix = torch.tensor([[-50.0], [1.0], [3.0], [90.0]])  # doctest: +SKIP
        >>> column_trimmed_mean(matrix.cuda(), torch.tensor(1).cuda()).tolist()  # doctest: +SKIP
        [2.0]

    Source: Yin, Chen, Ramchandran and Bartlett 2018, definition 2.
    """
    if trim.shape != () or trim.is_floating_point():
        raise ValueError(f"trim is {trim.dtype} of shape {tuple(trim.shape)}; allowed: a 0-dim integer")
    return _launch(_trimmed_mean_kernel, "column_trimmed_mean", matrix_ND, valid_N, block_bytes, trim)
