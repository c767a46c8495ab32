"""K-means by Triton against the reference."""

import pytest
import torch

from rflbat_kernels.kmeans import torch as by_torch
from rflbat_kernels.kmeans import triton
from tests.kernels.closeness import normal, uniform
from tests.kernels.triton_cases import KMEANS, assert_close


@pytest.mark.parametrize("name", KMEANS)
def test_same_as_the_reference(name: str) -> None:
    got, wanted = KMEANS[name].results("triton"), KMEANS[name].results("torch")
    assert torch.equal(got[0], wanted[0])
    assert_close(got, wanted, 1e-12)


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_every_round_is_the_reference_s(iterations: int) -> None:
    points, draws = normal(2, 40, 2), uniform(2, 2, 3, 5)
    got, wanted = (by.kmeans(points, (5, 2), draws, iterations=iterations) for by in (triton, by_torch))
    assert torch.equal(got.labels_MLN, wanted.labels_MLN)
    assert_close(got, wanted, 1e-12)


def test_a_point_is_added_to_the_first_of_equals_alone() -> None:
    """Two starts at one place: the second cluster stays empty and keeps its centre."""
    points = torch.tensor([[[1.0, 1.0], [1.0, 1.0], [3.0, 1.0]]], dtype=torch.float64)
    draws = torch.tensor([[[[0.0, 0.9, 0.5]]]], dtype=torch.float64)
    got = triton.kmeans(points, (3,), draws)
    assert got.labels_MLN.tolist() == [[[0, 0, 1]]]
    assert got.inertia_ML.item() == 0


def test_points_stay_as_they_are() -> None:
    points, draws = normal(1, 9, 2), uniform(1, 1, 2, 3)
    before = points.clone()
    triton.kmeans(points, (3,), draws)
    assert torch.equal(points, before)


def test_wrong_input_is_named() -> None:
    draws = uniform(1, 1, 1, 257)
    with pytest.raises(ValueError, match="got 257 clusters of 2 coordinates, padded 512 x 2; allowed: at most 512"):
        triton.kmeans(torch.ones(1, 3, 2), (257,), draws)
    with pytest.raises(ValueError, match="iterations is -1"):
        triton.kmeans(torch.ones(1, 3, 2), (1,), draws[..., :1], iterations=-1)
    with pytest.raises(ValueError, match="kmeans=triton got tensors on cpu, meta"):
        triton.kmeans(torch.ones(1, 3, 2, device="meta"), (1,), draws[..., :1])
