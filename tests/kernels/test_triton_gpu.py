"""The Triton kernels on a real device against the reference there: the cases that are interpreted on the host."""

import pytest
import torch

from rflbat_kernels import column_median, gram, using
from tests.kernels.test_gpu import waits_raise
from tests.kernels.triton_cases import CASES, Case, assert_close

pytestmark = pytest.mark.gpu

TOLERANCE = {torch.float16: 8e-3, torch.bfloat16: 6e-2, torch.float32: 4e-6, torch.float64: 1e-11}
"""Of the largest number; a device rounds exponentials and products otherwise than the host."""


def on_device(value: torch.Tensor) -> torch.Tensor:
    """The same numbers in the same layout."""
    if 0 in value.shape or 0 in value.stride():
        return value.cuda()
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda").copy_(value)


@pytest.mark.parametrize("name", CASES)
def test_same_as_the_reference_and_without_a_wait(name: str) -> None:
    case: Case = CASES[name]
    wanted = case.results("torch", on_device)
    case.results("triton", on_device)  # compiled on first use
    with waits_raise():
        function, arguments = case.ready("triton", on_device)
        got = function(*arguments)
    assert all(part.is_cuda for part in got)
    assert_close(got, wanted, TOLERANCE[wanted[0].dtype])


def test_they_run_where_they_are_named() -> None:
    matrix = torch.randn(67, 1001, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    plain = gram(matrix), column_median(matrix)
    with using({"gram": "triton", "column_median": "triton"}):
        named = gram(matrix), column_median(matrix)
    torch.testing.assert_close(named[0].anchored_NN, plain[0].anchored_NN, rtol=1e-12, atol=1e-9)
    assert torch.equal(named[1], plain[1])


def test_rows_beyond_two_thousand_million_elements_are_read() -> None:
    """The first and the last row of a matrix of nine gigabytes."""
    if torch.cuda.mem_get_info()[0] < 11 * 2**30:
        pytest.skip("11 GiB of device memory are wanted")
    rows, columns = 3, 1_500_000_000
    matrix = torch.empty(rows, columns, dtype=torch.float16, device="cuda")[:, :5001].copy_(
        torch.arange(3)[:, None] + torch.arange(5001) % 7
    )
    near = matrix.clone()
    with using({"gram": "triton", "column_median": "triton"}):
        assert torch.equal(gram(matrix).raw_NN, gram(near).raw_NN)
        assert torch.equal(column_median(matrix), column_median(near))
