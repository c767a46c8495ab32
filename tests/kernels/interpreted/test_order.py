"""Median and trimmed mean of columns by Triton against the reference."""

import pytest
import torch

from rflbat_kernels.order import torch as by_torch
from rflbat_kernels.order import triton
from tests.kernels.closeness import normal
from tests.kernels.far_memory import far_rows
from tests.kernels.triton_cases import ORDER, spread


@pytest.mark.parametrize("name", ORDER)
def test_same_as_the_reference(name: str) -> None:
    [got], [wanted] = ORDER[name].results("triton"), ORDER[name].results("torch")
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    if ORDER[name].op == "column_median":
        assert torch.equal(got, wanted)
    else:
        rtol = {torch.float64: 1e-15}.get(got.dtype, torch.finfo(got.dtype).eps)
        largest = wanted.abs().max().item() if wanted.numel() else 0.0
        torch.testing.assert_close(got, wanted, rtol=rtol, atol=rtol * largest)


def test_equal_entries_give_exactly_themselves_and_what_is_cut_leaves_no_trace() -> None:
    matrix = torch.full((11, 3), 0.1)
    assert torch.equal(triton.column_trimmed_mean(matrix, torch.tensor(2)), matrix[0])
    rows = normal(9, 63)
    rows[0], rows[1] = 1.7e308, -1.7e308
    got = triton.column_trimmed_mean(rows, torch.tensor(1))
    torch.testing.assert_close(got, triton.column_trimmed_mean(rows[2:], torch.tensor(0)), rtol=1e-14, atol=1e-15)


def test_rows_beyond_two_thousand_million_elements_are_read() -> None:
    near = spread(3, 7, torch.float16)
    far = far_rows(near)
    assert torch.equal(triton.column_median(far), by_torch.column_median(near))
    cut = torch.tensor(0)
    torch.testing.assert_close(triton.column_trimmed_mean(far, cut), by_torch.column_trimmed_mean(near, cut))


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="column_median=triton got 2049 rows; allowed: at most 2048"):
        triton.column_median(torch.ones(2049, 1))
    with pytest.raises(ValueError, match=r"trim is torch.float32"):
        triton.column_trimmed_mean(torch.ones(3, 1), torch.tensor(1.0))
    with pytest.raises(ValueError, match="N at least 1"):
        triton.column_median(torch.ones(0, 3))
