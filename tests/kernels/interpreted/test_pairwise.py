"""Sums of distances by Triton against the reference."""

import pytest
import torch

from rflbat_kernels.pairwise import torch as by_torch
from rflbat_kernels.pairwise import triton
from tests.kernels.closeness import normal
from tests.kernels.far_memory import far_rows
from tests.kernels.triton_cases import SUMS, assert_close


@pytest.mark.parametrize("name", SUMS)
def test_same_as_the_reference(name: str) -> None:
    assert_close(SUMS[name].results("triton"), SUMS[name].results("torch"), 1e-14)


def test_equal_points_are_at_no_distance() -> None:
    assert (triton.distance_sums(torch.full((63, 3), 1e8 + 1 / 3)) == 0).all()


def test_points_beyond_two_thousand_million_elements_are_read() -> None:
    near = normal(3, 2, dtype=torch.float16)
    assert_close((triton.distance_sums(far_rows(near)),), (by_torch.distance_sums(near),), 1e-14)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"the mask is torch.float32 of shape \(3,\)"):
        triton.distance_sums(torch.ones(3, 2), torch.ones(3))
    with pytest.raises(ValueError, match="distance_sums=triton got tensors on meta; allowed: one device of cuda, cpu"):
        triton.distance_sums(torch.ones(3, 2, device="meta"))
