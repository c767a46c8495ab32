"""Distances and cosines against loops in float64 and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances

from rflbat_kernels import cosines, distance_sums, distances, gram, squared_distances
from tests.kernels.closeness import assert_near, normal
from tests.oracles import kernels as oracle


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 63), (2, 101), (13, 63), (67, 101)])
def test_distances_and_cosines_equal_the_oracle(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = normal(*shape, dtype=dtype) + 1
    got = gram(matrix)
    assert_near(squared_distances(got.centred_NN), oracle.squared_distances(matrix), 1e-13)
    assert_near(squared_distances(got.anchored_NN), oracle.squared_distances(matrix), 1e-13)
    assert_near(cosines(got.raw_NN), oracle.cosines(matrix), 1e-14)


def test_distances_and_cosines_equal_scikit_learn() -> None:
    matrix = normal(63, 101)
    got = gram(matrix)
    assert_near(squared_distances(got.centred_NN), euclidean_distances(matrix, squared=True), 1e-13)
    assert_near(cosines(got.raw_NN), cosine_similarity(matrix), 1e-13)


def test_squared_distances_form_a_distance_matrix() -> None:
    matrix = normal(63, 101, dtype=torch.float32)
    matrix[[5, 40, 62]] = matrix[0].clone()
    got = squared_distances(gram(matrix).centred_NN)
    assert (got >= 0).all()
    assert (got.diagonal() == 0).all()
    assert torch.equal(got, got.T)
    assert (got[[0, 5, 40, 62]][:, [0, 5, 40, 62]] <= 1e-14 * got.max()).all()


def test_neither_a_common_part_nor_a_far_row_blinds_the_distances() -> None:
    matrix = 1e5 + normal(7, 101)
    matrix[0], matrix[1] = 1e30, -1e-3
    got = squared_distances(gram(matrix).anchored_NN)
    assert_near(got[2:, 2:], oracle.squared_distances(matrix[2:]), 1e-5)
    matrix[1] = 1e20
    got = squared_distances(gram(matrix).anchored_NN)
    assert_near(got[2:, 2:], oracle.squared_distances(matrix[2:]), 1e-14)


def test_cosines_of_zero_equal_and_opposite_rows() -> None:
    matrix = normal(6, 101) / 3
    matrix[1] = 0
    matrix[3], matrix[4] = matrix[2], -matrix[2]
    got = cosines(gram(matrix).raw_NN)
    assert (got[1] == 0).all()
    assert (got[:, 1] == 0).all()
    assert got[2, 3] == 1
    assert got[2, 4] == -1
    assert (got.diagonal()[[0, 2, 3, 4, 5]] == 1).all()
    assert got.abs().max() <= 1
    assert torch.equal(got, got.T)


@pytest.mark.parametrize("scale", [1e-40, 1e37])
def test_cosines_ignore_the_length_of_a_row(scale: float) -> None:
    matrix = normal(7, 101, dtype=torch.float32)
    matrix[::2] *= scale
    assert_near(cosines(gram(matrix).raw_NN), oracle.cosines(matrix), 1e-14)


def test_cosines_where_the_product_of_two_squares_overflows() -> None:
    raw = torch.tensor([[1e300, 5e299], [5e299, 1e300]], dtype=torch.float64)
    assert_near(cosines(raw), [[1, 0.5], [0.5, 1]], 1e-15)
    assert_near(cosines(raw * 1e-300 * 1e-290), [[1, 0.5], [0.5, 1]], 1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 2), (2, 2), (63, 2), (101, 3)])
def test_distances_of_points_equal_scikit_learn(shape: tuple[int, int], dtype: torch.dtype) -> None:
    points = normal(*shape, dtype=dtype)
    assert_near(distances(points), np.sqrt(oracle.squared_distances(points)), 1e-15)
    assert_near(distances(points), euclidean_distances(points.double()), 1e-7)


def test_distances_of_points_far_from_the_origin() -> None:
    points = 1e8 + normal(63, 2)
    assert_near(distances(points), np.sqrt(oracle.squared_distances(points)), 1e-15)
    assert_near(distances(points * 2.0**126), np.sqrt(oracle.squared_distances(points)) * 2.0**126, 1e-14)


def test_distances_take_batches_and_any_layout() -> None:
    points = normal(4, 3, 63, 2)
    got = distances(points)
    assert torch.equal(got[2, 1], distances(points[2, 1]))
    assert torch.equal(distances(points.mT.contiguous().mT), got)
    assert (got.diagonal(dim1=-2, dim2=-1) == 0).all()
    assert torch.equal(got, got.mT)


@pytest.mark.parametrize("block_bytes", [1, 8 * 63 * 5, 2**25])
@pytest.mark.parametrize("shape", [(1, 2), (63, 1), (63, 2), (5, 0), (0, 2)])
def test_sums_of_distances(shape: tuple[int, int], block_bytes: int) -> None:
    points = 1e8 + normal(*shape)
    wanted = [math.fsum(math.dist(row, other) for other in points.tolist()) for row in points.tolist()]
    assert_near(distance_sums(points, block_bytes=block_bytes), wanted, 1e-14)


@pytest.mark.parametrize("by_set", [False, True])
def test_points_that_do_not_count_are_in_no_sum(by_set: bool) -> None:
    points = normal(4, 3, 63, 2)
    valid = normal(4, 3, 63, seed=1) > 0 if by_set else (torch.arange(63) % 3 > 0).expand(4, 3, 63)
    spoiled = torch.where(valid[..., None], points, torch.tensor([torch.nan, torch.inf]))
    got = distance_sums(spoiled, valid if by_set else valid[0, 0], block_bytes=2**12)
    assert (got[~valid] == 0).all()
    for at in ((0, 0), (3, 2)):
        assert_near(got[at][valid[at]], distances(points[at][valid[at]]).sum(1), 1e-14)


def test_a_permutation_of_rows_permutes_the_answer() -> None:
    order = torch.from_numpy(np.random.default_rng(1).permutation(63))
    centred, raw, _ = gram(normal(63, 101))
    for function, matrix in ((squared_distances, centred), (cosines, raw)):
        assert torch.equal(function(matrix[order][:, order]), function(matrix)[order][:, order])
    points = normal(63, 2)
    assert torch.equal(distances(points[order]), distances(points)[order][:, order])


def test_no_graph_is_built() -> None:
    square = normal(5, 5).requires_grad_()
    assert not any(function(square).requires_grad for function in (squared_distances, cosines, distances))


def test_wrong_input_is_named() -> None:
    for function in (squared_distances, cosines):
        with pytest.raises(ValueError, match=r"shape \(3, 2\); allowed: \(N, N\)"):
            function(torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        distances(torch.ones(3))
    with pytest.raises(ValueError, match=r"float32 of shape \(3,\); allowed: float \(..., N, H\)"):
        distance_sums(torch.ones(3))
    with pytest.raises(ValueError, match=r"shape \(2, 1\); allowed: torch.bool of shape \(3,\) or \(2, 3\)"):
        distance_sums(torch.ones(2, 3, 1), torch.ones(2, 1) > 0)
    with pytest.raises(ValueError, match="block_bytes is 0"):
        distance_sums(torch.ones(2, 3), block_bytes=0)
