"""The Gram matrix by Triton against the reference."""

import pytest
import torch

from rflbat_kernels.gram import triton
from rflbat_kernels.gram.torch import gram
from tests.kernels.closeness import normal
from tests.kernels.far_memory import BEYOND, far_rows
from tests.kernels.triton_cases import GRAM, hostile, spread


def assert_same(got: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]) -> None:
    """Raw and anchored products to the lengths of their own two rows, centred ones to the longest; masks exactly."""
    for name, part, truth in zip(("centred", "raw", "anchored"), got, wanted, strict=True):
        assert (part.dtype, part.shape) == (torch.float64, truth.shape)
        length_N = wanted[1].diagonal().sqrt()
        bound_NN = length_N[:, None] * length_N[None, :]
        if name == "centred" and len(part):
            bound_NN = bound_NN.amax().expand_as(part)
        assert ((part - truth).abs() <= 1e-14 * bound_NN).all(), name
        assert torch.equal(part, part.T)


@pytest.mark.parametrize("name", GRAM)
def test_same_as_the_reference(name: str) -> None:
    assert_same(GRAM[name].results("triton"), GRAM[name].results("torch"))


@pytest.mark.parametrize("rows", [17, 67])
@pytest.mark.parametrize("block_bytes", [1, 2**19, 2**30])
def test_slabs_are_added_up(rows: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "PROGRAMS", 12)
    matrix, valid = hostile(rows, 301)
    assert_same(triton.gram(matrix, valid, block_bytes=block_bytes), gram(matrix, valid))


@pytest.mark.parametrize("rows", [3, 65])
def test_a_common_part_and_equal_rows(rows: int) -> None:
    matrix = torch.full((rows, 101), 1e3 + 1 / 3)
    got = triton.gram(matrix)
    assert (got.centred_NN == 0).all()
    assert (got.anchored_NN == 0).all()
    torch.testing.assert_close(got.raw_NN, gram(matrix).raw_NN, rtol=1e-14, atol=0.0)


def test_rows_beyond_two_thousand_million_elements_are_read() -> None:
    for rows in (3, 65):
        near = spread(rows, 7, torch.float16)
        far = far_rows(near)
        assert far.stride(0) < 2**31 < BEYOND < far.stride(0) * (rows - 1)
        assert_same(triton.gram(far), gram(near))


def test_every_run_gives_the_same_bits() -> None:
    first, second = (triton.gram(normal(67, 101), torch.arange(67) > 2) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"the mask is torch.float32 of shape \(3,\)"):
        triton.gram(torch.ones(3, 3), torch.ones(3))
    with pytest.raises(ValueError, match="gram=triton got tensors on cpu, meta; allowed: one device of cuda, cpu"):
        triton.gram(torch.ones(3, 3), torch.ones(3, device="meta") > 0)
    with pytest.raises(ValueError, match="block_bytes is 0"):
        triton.gram(torch.ones(3, 3), block_bytes=0)
