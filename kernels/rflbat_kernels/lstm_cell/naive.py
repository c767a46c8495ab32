"""Definitions of the operations of ``lstm_cell``, in plain float64 and without care for speed or memory.

Axes: B rows, U units, G = 4 U gates in the order i, f, g, o.
"""

import torch
from torch import Tensor

from rflbat_kernels.lstm_cell.torch import Cell


def lstm_cell(gates_BG: Tensor, cell_BU: Tensor) -> Cell:
    """Compute ``i, f, o = 1 / (1 + exp(-a))``, ``g = tanh(a)``, ``c' = f c + i g`` and ``h = o tanh(c')``."""
    a_i, a_f, a_g, a_o = gates_BG.to(torch.float64).chunk(4, -1)
    i, f, o = (1 / (1 + torch.exp(-a)) for a in (a_i, a_f, a_o))
    g = torch.tanh(a_g)
    after_BU = f * cell_BU.to(torch.float64) + i * g
    active_BG = torch.cat([i, f, g, o], -1)
    return Cell(*(part.to(gates_BG.dtype) for part in (o * torch.tanh(after_BU), after_BU, active_BG)))


def lstm_cell_backward(
    grad_state_BU: Tensor, grad_cell_BU: Tensor, active_BG: Tensor, before_BU: Tensor, after_BU: Tensor
) -> tuple[Tensor, Tensor]:
    """Differentiate ``sum dh h + dc' c'`` with respect to the pre-activations of the gates and the cell state before.

    Autograd gives the derivatives in the activated gates; the chain rule multiplies them by ``y (1 - y)`` for
    ``y = sigmoid(a)`` and by ``1 - y^2`` for ``y = tanh(a)``. ``c'`` is recomputed as ``f c + i g``.
    """
    with torch.enable_grad():
        active_BG, before_BU = (given.detach().to(torch.float64).requires_grad_() for given in (active_BG, before_BU))
        i, f, g, o = active_BG.chunk(4, -1)
        cell_BU = f * before_BU + i * g
        value = (grad_state_BU * o * torch.tanh(cell_BU) + grad_cell_BU * cell_BU).sum()
        grad_active_BG, grad_before_BU = torch.autograd.grad(value, (active_BG, before_BU))
        slopes_BG = torch.cat([i * (1 - i), f * (1 - f), 1 - g * g, o * (1 - o)], -1).detach()
    dtype = after_BU.dtype
    return (grad_active_BG * slopes_BG).to(dtype), grad_before_BU.to(dtype)
