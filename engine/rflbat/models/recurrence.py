"""An LSTM layer that returns only the last state, as one differentiable function with its own vmap rule.

Autograd through a loop over tokens would record about twenty operations per token. Here the backward pass is written by
hand, and the weights' gradients are one product over all tokens. Under vmap all clients take each step together.
Axes: n clients, B batch, T tokens, E inputs, U units, G = 4 U gates in the order i, f, g, o.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from rflbat_kernels.operations import lstm_cell, lstm_cell_backward

_LSTM_MODE = 2
"""Mode number of an LSTM in cuDNN, MIOpen and oneDNN."""


def last_state(x_TBE: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """Run one LSTM layer over texts and return its state after the last token.

    ``gates_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh``; ``c_t = f c_{t-1} + i g``; ``h_t = o tanh(c_t)`` with i, f, o
    through the sigmoid and g through tanh; ``h_0 = c_0 = 0``. One client in float32 on a CPU uses oneDNN's fused layer;
    all other cases loop over tokens.

    Args:
        x_TBE: the texts' vectors, tokens first, the layout that oneDNN and the products over all texts read.
        weight_ih: ``(G, E)``.
        weight_hh: ``(G, U)``.
        bias_ih: ``(G,)``.
        bias_hh: ``(G,)``.

    Returns:
        ``(B, U)``; differentiable once and vmappable in every argument.

    Example:
        >>> last_state(torch.ones(3, 2, 5), torch.ones(8, 5), torch.ones(8, 2), torch.ones(8), torch.ones(8)).shape
        torch.Size([2, 2])

    Source: Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000 (forget gate).
    """
    state_BU: Tensor = _Forward.apply(torch.is_grad_enabled(), x_TBE, weight_ih, weight_hh, bias_ih, bias_hh)[0]
    return state_BU


def _fused(x: Tensor) -> bool:
    """Check whether oneDNN's layer applies to this input: one client, float32, CPU."""
    return x.ndim == 3 and x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def _fused_forward(train: bool, x_TBE: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    units = weights[1].shape[1]
    zero_1BU = x_TBE.new_zeros(1, x_TBE.shape[1], units)
    settings: tuple[Any, ...] = (False, [], _LSTM_MODE, units, 1, True, False, False, train)
    # The layer saves tensors for its backward pass only in grad mode, which a Function's forward switches off.
    with torch.set_grad_enabled(train):
        plain = (value.detach() for value in (x_TBE.contiguous(), *weights, zero_1BU, zero_1BU))
        found = torch.ops.aten.mkldnn_rnn_layer(*plain, *settings)
    states_TBU, state_1BU, cell_1BU, workspace = found
    return state_1BU[0], states_TBU, cell_1BU, workspace if train else x_TBE.new_empty(0)


def _fused_backward(grad_BU: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
    x_TBE, w_ih, w_hh, b_ih, b_hh, states_TBU, cell_1BU, workspace = saved
    units = w_hh.shape[1]
    zero_1BU = torch.zeros_like(cell_1BU)
    weights, first, last = (w_ih, w_hh, b_ih, b_hh), (zero_1BU, zero_1BU), (states_TBU[-1:], cell_1BU)
    grads = (torch.zeros_like(states_TBU), grad_BU[None].contiguous(), torch.zeros_like(cell_1BU))
    settings: tuple[Any, ...] = (False, _LSTM_MODE, units, 1, True, True, False, [], False, workspace)
    rows = (x_TBE.contiguous(), *weights, *first, states_TBU, *last, *grads)
    found: tuple[Tensor, ...] = torch.ops.aten.mkldnn_rnn_layer_backward(*rows, *settings)
    return found[:5]


def _stepwise_forward(train: bool, x_nTBE: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    w_ih, w_hh, b_ih, b_hh = weights
    clients, tokens, batch, _ = x_nTBE.shape
    inputs_nMG = torch.baddbmm((b_ih + b_hh)[:, None], x_nTBE.flatten(1, 2), w_ih.mT)
    inputs_nTBG = inputs_nMG.view(clients, tokens, batch, -1)
    state_nBU = cell_nBU = x_nTBE.new_zeros(clients, batch, w_hh.shape[2])
    states, cells = [state_nBU], [cell_nBU]
    actives: list[Tensor] = []
    for input_nBG in inputs_nTBG.unbind(1):
        gates_nBG = torch.baddbmm(input_nBG, state_nBU, w_hh.mT)
        state_nBU, cell_nBU, active_nBG = lstm_cell(gates_nBG, cell_nBU)
        if train or not actives:
            states.append(state_nBU)
            cells.append(cell_nBU)
            actives.append(active_nBG)
    return state_nBU.clone(), torch.stack(states, 1), torch.stack(cells, 1), torch.stack(actives, 1)


def _stepwise_backward(grad_nBU: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
    x_nTBE, w_ih, w_hh, _, _, states_nTBU, cells_nTBU, actives_nTBG = saved
    cells, actives = cells_nTBU.unbind(1), actives_nTBG.unbind(1)
    grad_cell_nBU, grads = torch.zeros_like(grad_nBU), []
    for step in range(x_nTBE.shape[1] - 1, -1, -1):
        grad_gates_nBG, grad_cell_nBU = lstm_cell_backward(
            grad_nBU, grad_cell_nBU, actives[step], cells[step], cells[step + 1]
        )
        grad_nBU = torch.bmm(grad_gates_nBG, w_hh)
        grads.append(grad_gates_nBG)
    grads_nMG = torch.stack(grads[::-1], 1).flatten(1, 2)
    grad_x_nTBE = torch.bmm(grads_nMG, w_ih).view(x_nTBE.shape)
    grad_hh = torch.bmm(grads_nMG.mT, states_nTBU[:, :-1].flatten(1, 2))
    grad_bias_nG = grads_nMG.sum(1)
    return grad_x_nTBE, torch.bmm(grads_nMG.mT, x_nTBE.flatten(1, 2)), grad_hh, grad_bias_nG, grad_bias_nG.clone()


def _batched(info: Any, in_dims: tuple[int | None, ...], arguments: tuple[Tensor, ...]) -> list[Tensor]:
    """Move the client axis to the front of every argument; expand arguments that all clients share."""
    return [
        value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
        for value, dim in zip(arguments, in_dims, strict=True)
    ]


class _Forward(Function):
    """(train, x, weights, biases) -> (last state, tensors saved for backward); x may have a leading axis n."""

    generate_vmap_rule = False

    @staticmethod
    def forward(train: bool, *arguments: Tensor) -> tuple[Tensor, ...]:
        x = arguments[0]
        if _fused(x):
            return _fused_forward(train, *arguments)
        if x.ndim == 4:
            return _stepwise_forward(train, *arguments)
        return tuple(each[0] for each in _stepwise_forward(train, *(value[None] for value in arguments)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        # Otherwise autograd fills in zero gradients for those outputs too: 12 MB for the workspace alone.
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1:], *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> Any:
        return None, *_Backward.apply(grad, *ctx.saved_tensors)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], train: bool, *arguments: Tensor
    ) -> tuple[Any, tuple[int, ...]]:
        return _Forward.apply(train, *_batched(info, in_dims[1:], arguments)), (0,) * 4


class _Backward(Function):
    """(gradient of the last state, saved tensors) -> gradients of the five arguments."""

    generate_vmap_rule = False

    @staticmethod
    def forward(*arguments: Tensor) -> tuple[Tensor, ...]:
        x = arguments[1]
        if _fused(x):
            return _fused_backward(*arguments)
        if x.ndim == 4:
            return _stepwise_backward(*arguments)
        return tuple(each[0] for each in _stepwise_backward(*(value[None] for value in arguments)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Save nothing: the gradient is not differentiated again."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Tensor) -> tuple[Any, tuple[int, ...]]:
        return _Backward.apply(*_batched(info, in_dims, arguments)), (0,) * 5
