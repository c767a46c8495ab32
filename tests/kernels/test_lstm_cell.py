"""One step of an LSTM against loops over complex numbers and against torch's own cell."""

import pytest
import torch

from rflbat_kernels.operations import lstm_cell, lstm_cell_backward
from tests.kernels.closeness import assert_near, normal
from tests.oracles import kernels as oracle

SHAPES = [(1, 1), (1, 7), (5, 1), (3, 5), (2, 3, 4), (2, 1, 3, 2)]


def inputs(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    """Gates, cell and the gradients of state and cell."""
    gates = 3 * normal(*shape[:-1], 4 * shape[-1], dtype=dtype)
    return gates, *(normal(*shape, seed=seed, dtype=dtype) for seed in (1, 2, 3))


def by_unit(gates: torch.Tensor, *others: torch.Tensor) -> list[tuple[list[float], ...]]:
    """For each unit: its four gates, and its entry of every other tensor."""
    units = others[0].shape[-1]
    parts = gates.reshape(-1, 4, units).mT.reshape(-1, 4).tolist()
    return list(zip(parts, *(other.flatten().tolist() for other in others), strict=True))


def four(gates: torch.Tensor) -> torch.Tensor:
    """(units, 4) of (..., 4 U)."""
    return gates.reshape(-1, 4, gates.shape[-1] // 4).mT.reshape(-1, 4)


@pytest.mark.parametrize("shape", SHAPES)
def test_forward_is_the_oracle(shape: tuple[int, ...]) -> None:
    gates, cell, *_ = inputs(*shape)
    state, after, active = lstm_cell(gates, cell)
    wanted = [oracle.lstm_cell(*unit) for unit in by_unit(gates, cell)]
    assert_near(state.flatten(), [pair[0].real for pair in wanted], 1e-15)
    assert_near(after.flatten(), [pair[1].real for pair in wanted], 1e-15)
    i, f, g, o = four(active).unbind(1)
    assert_near(f * cell.flatten() + i * g, after.flatten(), 1e-15)
    assert_near(o * after.flatten().tanh(), state.flatten(), 1e-15)


@pytest.mark.parametrize("shape", SHAPES)
def test_backward_is_the_oracle(shape: tuple[int, ...]) -> None:
    gates, cell, grad_state, grad_cell = inputs(*shape)
    _, after, active = lstm_cell(gates, cell)
    grad_gates, grad_before = lstm_cell_backward(grad_state, grad_cell, active, cell, after)
    wanted = [oracle.lstm_cell_gradients(*unit) for unit in by_unit(gates, cell, grad_state, grad_cell)]
    assert_near(four(grad_gates), [row[:4] for row in wanted], 1e-14)
    assert_near(grad_before.flatten(), [row[4] for row in wanted], 1e-14)


def test_it_is_the_cell_of_torch() -> None:
    module = torch.nn.LSTMCell(3, 5, dtype=torch.float64)
    x, state, cell = normal(7, 3), normal(7, 5, seed=1), normal(7, 5, seed=2).requires_grad_()
    wanted = module(x, (state, cell))
    gates = x @ module.weight_ih.T + module.bias_ih + state @ module.weight_hh.T + module.bias_hh
    gates.retain_grad()
    got = lstm_cell(gates, cell)
    assert not any(part.requires_grad for part in got)
    torch.testing.assert_close(got[:2], tuple(part.detach() for part in wanted))
    grads = normal(2, 7, 5, seed=3)
    [by_autograd] = torch.autograd.grad(wanted, cell, tuple(grads))
    torch.testing.assert_close(lstm_cell_backward(*grads, got[2], cell, got[1])[1], by_autograd)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_short_floats_stay_short_and_are_nearly_right(dtype: torch.dtype) -> None:
    gates, cell, grad_state, grad_cell = inputs(4, 3, 5, dtype=dtype)
    found = lstm_cell(gates, cell)
    found_back = lstm_cell_backward(grad_state, grad_cell, found.active_BG, cell, found.cell_BU)
    exact = lstm_cell(gates.double(), cell.double())
    exact_back = lstm_cell_backward(
        grad_state.double(), grad_cell.double(), exact.active_BG, cell.double(), exact.cell_BU
    )
    for part, wanted in zip((*found, *found_back), (*exact, *exact_back), strict=True):
        assert part.dtype == dtype
        assert_near(part.double(), wanted, 8 * torch.finfo(dtype).eps)


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    gates, cell, *_ = inputs(3, 5)
    wanted = lstm_cell(gates, cell)
    gates[1], cell[1, 2] = torch.nan, torch.inf
    for part, clean in zip(lstm_cell(gates, cell), wanted, strict=True):
        assert torch.equal(part[::2], clean[::2])


@pytest.mark.parametrize(
    ("gates", "cell", "message"),
    [
        (torch.ones(8), torch.ones(3), r"float32 \(2,\); got torch.float32 \(3,\)"),
        (torch.ones(2, 7), torch.ones(2, 2), r"shape \(2, 7\); allowed: float \(..., B, 4 U\)"),
        (torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 2), "torch.int64"),
        (torch.ones(2, 8), torch.ones(3, 2), r"got torch.float32 \(3, 2\)"),
        (torch.ones(2, 8), torch.ones(2, 2).double(), r"got torch.float64 \(2, 2\)"),
    ],
)
def test_wrong_input_is_named(gates: torch.Tensor, cell: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lstm_cell(gates, cell)
    with pytest.raises(ValueError, match=message):
        lstm_cell_backward(cell, cell, gates, cell, cell)
