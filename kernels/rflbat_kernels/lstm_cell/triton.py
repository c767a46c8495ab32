"""The elementwise part of an LSTM step in Triton for CUDA devices, one kernel per direction.

Axes: B rows, further axes in front (together O x I rows, where the I inner ones have a common stride), U units,
G = 4 U gates in the order i, f, g, o; R rows and C units of one program.
"""

import math
from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from rflbat_kernels.gram.triton import check_launch
from rflbat_kernels.lstm_cell.torch import Cell, check_cell

TILE = 1024
"""Number of elements (rows times units) of one program."""


@triton.jit  # type: ignore[untyped-decorator]
def _wide(value: tl.tensor) -> tl.tensor:
    """Convert to the compute type: float64 stays, everything else becomes float32."""
    if value.dtype != tl.float64:
        value = value.to(tl.float32)
    return value


@triton.jit  # type: ignore[untyped-decorator]
def _sigmoid(value: tl.tensor) -> tl.tensor:
    """Compute 1 / (1 + exp(-x)) from exp(-|x|), which cannot overflow."""
    small = tl.exp(-tl.abs(value))
    return tl.where(value >= 0, 1.0, small) / (1.0 + small)


@triton.jit  # type: ignore[untyped-decorator]
def _tanh(value: tl.tensor) -> tl.tensor:
    """Compute tanh; near 0, where 1 - exp(-2|x|) cancels, by the continued fraction x / (1 + x^2 / (3 + ...))."""
    size = tl.abs(value)
    near = size < 0.2
    x = tl.where(near, value, 0.0)
    square = x * x
    above = x * (10395.0 + square * (1260.0 + square * 21.0))
    fraction = above / (10395.0 + square * (4725.0 + square * (210.0 + square)))
    small = tl.exp(-2.0 * size)
    far = (1.0 - small) / (1.0 + small)
    return tl.where(near, fraction, tl.where(value < 0, -far, far))


@triton.jit  # type: ignore[untyped-decorator]
def _where(rows: tl.tensor, inner: tl.tensor, units: tl.tensor, R: tl.constexpr, C: tl.constexpr) -> Any:
    """Compute the indices of a program: rows (total, outer, inner), units, and the mask of those that exist."""
    row_R = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    unit_C = tl.program_id(1).to(tl.int64) * C + tl.arange(0, C)
    there_RC = (row_R < rows)[:, None] & (unit_C < units)[None, :]
    return row_R, row_R // inner, row_R % inner, unit_C, there_RC


@triton.jit  # type: ignore[untyped-decorator]
def _read(
    value: tl.tensor,
    outer_R: tl.tensor,
    inner_R: tl.tensor,
    unit_C: tl.tensor,
    there_RC: tl.tensor,
    outer_stride: tl.tensor,
    inner_stride: tl.tensor,
) -> tl.tensor:
    row_R = outer_R * outer_stride + inner_R * inner_stride
    return _wide(tl.load(value + (row_R[:, None] + unit_C[None, :]), mask=there_RC, other=0.0))


@triton.jit  # type: ignore[untyped-decorator]
def _write(
    result: tl.tensor, row_R: tl.tensor, unit_C: tl.tensor, there_RC: tl.tensor, units: tl.tensor, value: tl.tensor
) -> None:
    address = result + (row_R[:, None] * units + unit_C[None, :])
    tl.store(address, value.to(result.dtype.element_ty), mask=there_RC)


@triton.jit  # type: ignore[untyped-decorator]
def _forward_kernel(
    gates: tl.tensor,
    cell: tl.tensor,
    state_out: tl.tensor,
    cell_out: tl.tensor,
    active_out: tl.tensor,
    rows: tl.tensor,
    inner: tl.tensor,
    units: tl.tensor,
    gates_outer: tl.tensor,
    gates_inner: tl.tensor,
    cell_outer: tl.tensor,
    cell_inner: tl.tensor,
    R: tl.constexpr,
    C: tl.constexpr,
) -> None:
    row_R, outer_R, inner_R, unit_C, there_RC = _where(rows, inner, units, R, C)
    f_C = unit_C + units
    g_C = f_C + units
    o_C = g_C + units
    i = _sigmoid(_read(gates, outer_R, inner_R, unit_C, there_RC, gates_outer, gates_inner))
    f = _sigmoid(_read(gates, outer_R, inner_R, f_C, there_RC, gates_outer, gates_inner))
    g = _tanh(_read(gates, outer_R, inner_R, g_C, there_RC, gates_outer, gates_inner))
    o = _sigmoid(_read(gates, outer_R, inner_R, o_C, there_RC, gates_outer, gates_inner))
    after = f * _read(cell, outer_R, inner_R, unit_C, there_RC, cell_outer, cell_inner) + i * g
    _write(state_out, row_R, unit_C, there_RC, units, o * _tanh(after))
    _write(cell_out, row_R, unit_C, there_RC, units, after)
    _write(active_out, 4 * row_R, unit_C, there_RC, units, i)
    _write(active_out, 4 * row_R, f_C, there_RC, units, f)
    _write(active_out, 4 * row_R, g_C, there_RC, units, g)
    _write(active_out, 4 * row_R, o_C, there_RC, units, o)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_kernel(
    grad_state: tl.tensor,
    grad_cell: tl.tensor,
    active: tl.tensor,
    before: tl.tensor,
    after: tl.tensor,
    grad_gates_out: tl.tensor,
    grad_cell_out: tl.tensor,
    rows: tl.tensor,
    inner: tl.tensor,
    units: tl.tensor,
    grad_state_outer: tl.tensor,
    grad_state_inner: tl.tensor,
    grad_cell_outer: tl.tensor,
    grad_cell_inner: tl.tensor,
    active_outer: tl.tensor,
    active_inner: tl.tensor,
    before_outer: tl.tensor,
    before_inner: tl.tensor,
    after_outer: tl.tensor,
    after_inner: tl.tensor,
    R: tl.constexpr,
    C: tl.constexpr,
) -> None:
    row_R, outer_R, inner_R, unit_C, there_RC = _where(rows, inner, units, R, C)
    f_C = unit_C + units
    g_C = f_C + units
    o_C = g_C + units
    i = _read(active, outer_R, inner_R, unit_C, there_RC, active_outer, active_inner)
    f = _read(active, outer_R, inner_R, f_C, there_RC, active_outer, active_inner)
    g = _read(active, outer_R, inner_R, g_C, there_RC, active_outer, active_inner)
    o = _read(active, outer_R, inner_R, o_C, there_RC, active_outer, active_inner)
    state = _read(grad_state, outer_R, inner_R, unit_C, there_RC, grad_state_outer, grad_state_inner)
    squashed = _tanh(_read(after, outer_R, inner_R, unit_C, there_RC, after_outer, after_inner))
    both = _read(grad_cell, outer_R, inner_R, unit_C, there_RC, grad_cell_outer, grad_cell_inner)
    both += state * o * (1.0 - squashed * squashed)
    earlier = _read(before, outer_R, inner_R, unit_C, there_RC, before_outer, before_inner)
    _write(grad_gates_out, 4 * row_R, unit_C, there_RC, units, both * g * i * (1.0 - i))
    _write(grad_gates_out, 4 * row_R, f_C, there_RC, units, both * earlier * f * (1.0 - f))
    _write(grad_gates_out, 4 * row_R, g_C, there_RC, units, both * i * (1.0 - g * g))
    _write(grad_gates_out, 4 * row_R, o_C, there_RC, units, state * squashed * o * (1.0 - o))
    _write(grad_cell_out, row_R, unit_C, there_RC, units, both * f)


def _launch(kernel: Any, op: str, values: tuple[Tensor, ...], results: tuple[Tensor, ...], units: int) -> None:
    """Reshape every tensor to three axes with a contiguous last one, and run the kernel over all rows."""
    check_launch(op, *values)
    shape = values[0].shape[:-1]
    rows, inner = math.prod(shape), shape[-1]
    if not rows or not units:
        return
    flat = [value.reshape(-1, inner, value.shape[-1]) for value in values]
    flat = [value if value.stride(2) == 1 or value.shape[2] == 1 else value.contiguous() for value in flat]
    strides = [stride for value in flat for stride in value.stride()[:2]]
    width = min(128, triton.next_power_of_2(units))
    height = TILE // width
    with torch.cuda.device(values[0].get_device()):  # -1 for a CPU tensor, which is a no-op
        kernel[(triton.cdiv(rows, height), triton.cdiv(units, width))](
            *flat, *results, rows, inner, units, *strides, height, width
        )


@torch.no_grad()
def lstm_cell(gates_BG: Tensor, cell_BU: Tensor) -> Cell:
    """Compute the next hidden and cell state of an LSTM from the pre-activations of its gates, in one kernel.

    ``i, f, o = sigmoid(.)``, ``g = tanh(.)``; ``c' = f c + i g``; ``h = o tanh(c')``. Float16 and bfloat16 are computed
    in float32 and rounded once.

    Args:
        gates_BG: pre-activations ``W_ih x + W_hh h + b``; float16, bfloat16, float32 or float64, any strides, on a CUDA
            device.
        cell_BU: cell state c before the step.

    Returns:
        the hidden state, the cell state and the activated gates, in the same dtype.

    Raises:
        ValueError: inconsistent dtypes or shapes, or a wrong device.

    Example:
        >>> lstm_cell(torch.zeros(1, 4).cuda(), torch.ones(1, 1).cuda()).cell_BU.item()  # doctest: +SKIP
        0.5

    Source: Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000 (forget gate).
    """
    check_cell(gates_BG, (cell_BU,))
    state_BU, after_BU = (torch.empty_like(cell_BU, memory_format=torch.contiguous_format) for _ in range(2))
    active_BG = torch.empty_like(gates_BG, memory_format=torch.contiguous_format)
    results = (state_BU, after_BU, active_BG)
    _launch(_forward_kernel, "lstm_cell", (gates_BG, cell_BU), results, cell_BU.shape[-1])
    return Cell(*results)


@torch.no_grad()
def lstm_cell_backward(
    grad_state_BU: Tensor, grad_cell_BU: Tensor, active_BG: Tensor, before_BU: Tensor, after_BU: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of the arguments of ``lstm_cell`` from those of its hidden and cell state, in one kernel.

    With ``s = tanh(c')`` and ``e = dc' + dh o (1 - s^2)``: ``di = e g i (1 - i)``, ``df = e c f (1 - f)``,
    ``dg = e i (1 - g^2)``, ``do = dh s o (1 - o)``, ``dc = e f``.

    Args:
        grad_state_BU: gradient dh of the hidden state; float16, bfloat16, float32 or float64, any strides, on a CUDA
            device.
        grad_cell_BU: gradient dc' of the cell state after the step.
        active_BG: the activated gates.
        before_BU: cell state c before the step.
        after_BU: cell state c' after the step.

    Returns:
        the gradients of the pre-activations (..., 4 U) and of the cell state before the step (..., U).

    Raises:
        ValueError: inconsistent dtypes or shapes, or a wrong device.

    Example:
        >>> one = torch.ones(1, 1).cuda()  # doctest: +SKIP
        >>> lstm_cell_backward(one, one, torch.zeros(1, 4).cuda(), one, one)[1].item()  # doctest: +SKIP
        0.0

    Source: Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000 (forget gate).
    """
    values = (grad_state_BU, grad_cell_BU, active_BG, before_BU, after_BU)
    check_cell(active_BG, (grad_state_BU, grad_cell_BU, before_BU, after_BU))
    grad_gates_BG = torch.empty_like(active_BG, memory_format=torch.contiguous_format)
    grad_before_BU = torch.empty_like(before_BU, memory_format=torch.contiguous_format)
    results = (grad_gates_BG, grad_before_BU)
    _launch(_backward_kernel, "lstm_cell_backward", values, results, before_BU.shape[-1])
    return results
