"""The elementwise part of an LSTM step, after its matrix products, forward and backward.

Axes: B rows (batch; further axes, such as clients, may precede it), U units, G = 4 U gates in the order i, f, g, o.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Cell(NamedTuple):
    """Results of an LSTM step."""

    state_BU: Tensor
    """The hidden state h."""
    cell_BU: Tensor
    """The cell state c'."""
    active_BG: Tensor
    """The gates after their activation functions, which the backward pass needs."""


def check_cell(gates_BG: Tensor, cells_BU: tuple[Tensor, ...]) -> None:
    """Check that tensors have the dtypes and shapes of one LSTM step.

    Args:
        gates_BG: any float type, (..., 4 U).
        cells_BU: tensors of the same type, (..., U).

    Raises:
        ValueError: inconsistent dtypes or shapes.

    Example:
        >>> check_cell(torch.ones(2, 8), (torch.ones(2, 3),))
        Traceback (most recent call last):
            ...
        ValueError: gates of shape (2, 8) need cells of torch.float32 (2, 2); got torch.float32 (2, 3)
    """
    *rows, gates = gates_BG.shape
    if gates % 4 or not gates_BG.is_floating_point():
        shape = tuple(gates_BG.shape)
        raise ValueError(f"the gates are {gates_BG.dtype} of shape {shape}; allowed: float (..., B, 4 U)")
    wanted = (*rows, gates // 4)
    for value_BU in cells_BU:
        if value_BU.shape != wanted or value_BU.dtype != gates_BG.dtype:
            given = f"{value_BU.dtype} {tuple(value_BU.shape)}"
            raise ValueError(
                f"gates of shape {tuple(gates_BG.shape)} need cells of {gates_BG.dtype} {wanted}; got {given}"
            )


@torch.no_grad()
def lstm_cell(gates_BG: Tensor, cell_BU: Tensor) -> Cell:
    """Compute the next hidden and cell state of an LSTM from the pre-activations of its gates.

    ``i, f, o = sigmoid(.)``, ``g = tanh(.)``; ``c' = f c + i g``; ``h = o tanh(c')``.

    Args:
        gates_BG: pre-activations ``W_ih x + W_hh h + b``, any float type. No gradient is recorded.
        cell_BU: cell state c before the step.

    Returns:
        the hidden state, the cell state and the activated gates, in the same dtype.

    Raises:
        ValueError: inconsistent dtypes or shapes.

    Example:
        >>> found = lstm_cell(torch.tensor([[0.0, 100.0, 0.0, 100.0]]), torch.tensor([[0.5]]))
        >>> found.cell_BU.item(), found.active_BG.tolist()
        (0.5, [[0.5, 1.0, 0.0, 1.0]])

    Source: Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000 (forget gate).
    """
    check_cell(gates_BG, (cell_BU,))
    i, f, g, o = gates_BG.chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cell_BU = f * cell_BU + i * g
    return Cell(o * cell_BU.tanh(), cell_BU, torch.cat([i, f, g, o], -1))


@torch.no_grad()
def lstm_cell_backward(
    grad_state_BU: Tensor, grad_cell_BU: Tensor, active_BG: Tensor, before_BU: Tensor, after_BU: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of the arguments of ``lstm_cell`` from those of its hidden and cell state.

    With ``s = tanh(c')`` and ``e = dc' + dh o (1 - s^2)``: ``di = e g i (1 - i)``, ``df = e c f (1 - f)``,
    ``dg = e i (1 - g^2)``, ``do = dh s o (1 - o)``, ``dc = e f``.

    Args:
        grad_state_BU: gradient dh of the hidden state.
        grad_cell_BU: gradient dc' of the cell state after the step.
        active_BG: the activated gates.
        before_BU: cell state c before the step.
        after_BU: cell state c' after the step.

    Returns:
        the gradients of the pre-activations (..., 4 U) and of the cell state before the step (..., U).

    Raises:
        ValueError: inconsistent dtypes or shapes.

    Example:
        >>> one = torch.ones(1, 1)
        >>> gates, cell = lstm_cell_backward(one, 0 * one, torch.tensor([[0.5, 0.5, 0.0, 1.0]]), one, 0 * one)
        >>> gates.tolist(), cell.item()
        ([[0.0, 0.25, 0.5, 0.0]], 0.5)

    Source: Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000 (forget gate).
    """
    check_cell(active_BG, (grad_state_BU, grad_cell_BU, before_BU, after_BU))
    i, f, g, o = active_BG.chunk(4, -1)
    squashed = after_BU.tanh()
    grad_cell_BU = grad_cell_BU + grad_state_BU * o * (1 - squashed * squashed)
    grad_i, grad_f = grad_cell_BU * g * i * (1 - i), grad_cell_BU * before_BU * f * (1 - f)
    grad_g, grad_o = grad_cell_BU * i * (1 - g * g), grad_state_BU * squashed * o * (1 - o)
    return torch.cat([grad_i, grad_f, grad_g, grad_o], -1), grad_cell_BU * f
