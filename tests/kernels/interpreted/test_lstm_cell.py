"""The LSTM's step by Triton against the reference."""

import pytest
import torch

from rflbat_kernels.lstm_cell import torch as by_torch
from rflbat_kernels.lstm_cell import triton
from tests.kernels.closeness import normal
from tests.kernels.far_memory import far_rows
from tests.kernels.triton_cases import LSTM, assert_close, lstm, lstm_back


@pytest.mark.parametrize("name", LSTM)
def test_same_as_the_reference(name: str) -> None:
    got, wanted = LSTM[name].results("triton"), LSTM[name].results("torch")
    eps = torch.finfo(wanted[0].dtype).eps
    assert_close(got, wanted, (16 if eps < 1e-5 else 4) * eps)


def test_what_is_not_a_number_spoils_its_own_unit_alone() -> None:
    gates, cell = lstm((3, 5), torch.float32)
    clean = triton.lstm_cell(gates, cell)
    gates[1, 2], gates[1, 8], cell[2, 4] = torch.nan, torch.inf, -torch.inf
    got, wanted = triton.lstm_cell(gates, cell), by_torch.lstm_cell(gates, cell)
    assert_close(got, wanted, 1e-5)
    touched = torch.zeros(3, 5, dtype=torch.bool)
    touched[1, 2] = touched[1, 3] = touched[2, 4] = True
    for part, before in zip(got[:2], clean[:2], strict=True):
        assert torch.equal(part[~touched], before[~touched])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_arguments_keep_their_digits(dtype: torch.dtype) -> None:
    """tanh(x) for |x| around the border of the two formulas and far below, relative to itself."""
    x = torch.cat([torch.logspace(-30, 1, 1001, dtype=torch.float64), torch.linspace(0.19, 0.21, 101)]).to(dtype)
    x = torch.cat([x, -x])[:, None]
    open_gate = torch.full_like(x, 100.0)
    found = triton.lstm_cell(torch.cat([open_gate, -open_gate, x, open_gate], 1), torch.zeros_like(x))
    torch.testing.assert_close(found.cell_BU.double(), x.double().tanh(), rtol=6 * torch.finfo(dtype).eps, atol=0.0)


def test_rows_beyond_two_thousand_million_elements_are_read() -> None:
    gates, cell = lstm((3, 5), torch.float16)
    eps = torch.finfo(torch.float16).eps
    found = triton.lstm_cell(far_rows(gates), far_rows(cell))
    assert_close(found, by_torch.lstm_cell(gates, cell), 4 * eps)
    back = lstm_back((3, 5), torch.float16)
    far = (*back[:2], far_rows(back[2]), far_rows(back[3]), back[4])
    assert_close(triton.lstm_cell_backward(*far), by_torch.lstm_cell_backward(*back), 4 * eps)


def test_nothing_else_is_written_and_nothing_given_is_changed() -> None:
    arguments = lstm_back((3, 5), torch.float32)
    before = [value.clone() for value in arguments]
    triton.lstm_cell_backward(*arguments)
    triton.lstm_cell(arguments[2], arguments[3])
    assert all(map(torch.equal, arguments, before))


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"got torch.float32 \(2, 3\)"):
        triton.lstm_cell(torch.ones(2, 8), torch.ones(2, 3))
    with pytest.raises(ValueError, match="lstm_cell=triton got tensors on meta; allowed: one device of cuda, cpu"):
        triton.lstm_cell(*(x.to("meta") for x in lstm((3, 5), torch.float32)))


def test_no_graph_is_built() -> None:
    found = triton.lstm_cell(normal(3, 8).requires_grad_(), normal(3, 2).requires_grad_())
    assert not any(part.requires_grad for part in found)
