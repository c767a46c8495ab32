"""Gram matrix, weighted sum and finiteness against loops in float64."""

import numpy as np
import pytest
import torch

from rflbat_kernels import cosines, finite_rows, gram, squared_distances, weighted_sum
from rflbat_kernels.gram.base import LARGEST
from tests.kernels.closeness import assert_near, normal
from tests.oracles import kernels as oracle

SHAPES = [(1, 1), (1, 63), (2, 101), (7, 1), (13, 63), (67, 101)]
TYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_oracle(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = normal(*shape, dtype=dtype) + 0.5
    centred, raw = oracle.gram(matrix)
    got = gram(matrix)
    assert_near(got.centred_NN, centred, 1e-14)
    assert_near(got.raw_NN, raw, 1e-14)
    assert torch.equal(got.centred_NN, got.centred_NN.T)
    assert torch.equal(got.raw_NN, got.raw_NN.T)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_are_converted_exactly(dtype: torch.dtype) -> None:
    matrix = normal(7, 63, dtype=dtype)
    assert_near(gram(matrix).raw_NN, oracle.gram(matrix.double())[1], 1e-14)


@pytest.mark.parametrize("common", [1e3, -1e3])
def test_a_large_common_part_cancels_in_float32(common: float) -> None:
    """Squared first and subtracted then, float64 would be left with 1e-16 * 1e6 / 1e-6 = 1e-4 of the noise."""
    matrix = (common + 1e-3 * normal(23, 1001)).to(torch.float32)
    centred, raw = oracle.gram(matrix)
    got = gram(matrix)
    assert_near(got.centred_NN, centred, 1e-13)
    assert_near(got.raw_NN, raw, 1e-14)
    for about in (got.centred_NN, got.anchored_NN):
        assert_near(squared_distances(about), oracle.squared_distances(matrix), 1e-13)
    after_the_fact = squared_distances(matrix.double() @ matrix.double().T)
    with pytest.raises(AssertionError):
        assert_near(after_the_fact, oracle.squared_distances(matrix), 1e-7)


def test_a_far_row_blinds_no_other_pair() -> None:
    matrix = normal(9, 101, dtype=torch.float32)
    matrix[2], matrix[5] = 1e38, -1e38
    truth = torch.from_numpy(oracle.gram(matrix)[1])
    got = gram(matrix)
    lengths = truth.diagonal().sqrt()
    assert ((got.raw_NN - truth).abs() <= 1e-14 * lengths[:, None] * lengths[None, :]).all()
    assert_near(got.centred_NN, oracle.gram(matrix)[0], 1e-14)
    assert_near(cosines(got.raw_NN), oracle.cosines(matrix), 1e-14)
    ordinary = torch.tensor([0, 1, 3, 4, 6, 7, 8])
    distances = squared_distances(got.anchored_NN)[ordinary][:, ordinary]
    assert_near(distances, oracle.squared_distances(matrix[ordinary]), 1e-13)


def test_denormal_rows_keep_their_products() -> None:
    matrix = normal(5, 101, dtype=torch.float32)
    matrix[1:4] *= 1e-40
    truth = torch.from_numpy(oracle.gram(matrix)[1])
    lengths = truth.diagonal().sqrt()
    assert (lengths > 0).all()
    assert ((gram(matrix).raw_NN - truth).abs() <= 1e-14 * lengths[:, None] * lengths[None, :]).all()


def test_a_zero_row_has_products_of_exactly_zero() -> None:
    matrix = normal(7, 63) + 100
    matrix[3] = 0
    raw = gram(matrix).raw_NN
    assert (raw[3] == 0).all()
    assert (raw[:, 3] == 0).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("invalid", [[0], [6], [0, 3, 4], [1, 2, 3, 4, 5, 6]])
def test_invalid_rows_leak_nothing(invalid: list[int], dtype: torch.dtype) -> None:
    matrix = normal(7, 101, dtype=dtype) + 3
    valid = torch.ones(7, dtype=torch.bool)
    valid[invalid] = False
    alone = gram(matrix[valid])
    matrix[invalid, ::2], matrix[invalid, 1::2] = torch.nan, -torch.inf
    for got, wanted in zip(gram(matrix, valid, block_bytes=500), alone, strict=True):
        assert_near(got[valid][:, valid], wanted, 1e-14)
        assert (got[~valid] == 0).all()
        assert (got[:, ~valid] == 0).all()


@pytest.mark.parametrize("fill", [torch.nan, torch.inf, 1.0])
def test_all_rows_invalid_gives_zeros(fill: float) -> None:
    for got in gram(torch.full((3, 63), fill), torch.zeros(3, dtype=torch.bool)):
        assert torch.equal(got, torch.zeros(3, 3, dtype=torch.float64))


@pytest.mark.parametrize("dtype", TYPES)
def test_identical_rows_have_a_centred_gram_of_exactly_zero(dtype: torch.dtype) -> None:
    row = normal(101, dtype=dtype) / 3
    assert (gram(row.expand(7, -1)).centred_NN == 0).all()


@pytest.mark.parametrize("block_bytes", [1, 8 * 7 * 10, 8 * 7 * 1001, 2**40])
def test_the_block_size_changes_only_rounding(block_bytes: int) -> None:
    matrix = normal(7, 1001, dtype=torch.float32)
    for got, wanted in zip(gram(matrix, block_bytes=block_bytes), gram(matrix), strict=True):
        assert_near(got, wanted, 1e-14)
    weights = normal(7)
    torch.testing.assert_close(weighted_sum(weights, matrix, block_bytes=block_bytes), weighted_sum(weights, matrix))


def views(matrix: torch.Tensor) -> dict[str, torch.Tensor]:
    rows, columns = matrix.shape
    strided = torch.full((2 * rows, 3 * columns), torch.nan, dtype=matrix.dtype)[::2, 1::3]
    return {
        "transposed": matrix.T.contiguous().T,
        "strided": strided.copy_(matrix),
        "repeated": matrix[:1].expand(rows, columns),
    }


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("layout", ["transposed", "strided", "repeated"])
def test_any_layout_is_read_and_none_is_written(layout: str, dtype: torch.dtype) -> None:
    view = views(normal(7, 101, dtype=dtype))[layout]
    before = view.clone(memory_format=torch.contiguous_format)
    valid = torch.tensor([True, True, False, True, True, True, False])
    for mask in (None, valid):
        for got, wanted in zip(gram(view, mask), gram(before, mask), strict=True):
            assert_near(got, wanted, 1e-14)
    weights = valid.double()
    torch.testing.assert_close(weighted_sum(weights, view), weighted_sum(weights, before))
    assert finite_rows(view).all()
    assert torch.equal(view, before)


def test_a_permutation_of_rows_permutes_the_answer() -> None:
    matrix, valid = normal(67, 101, dtype=torch.float32), torch.arange(67) % 5 > 0
    order = torch.from_numpy(np.random.default_rng(1).permutation(67))
    for moved, still in zip(gram(matrix[order], valid[order]), gram(matrix, valid), strict=True):
        assert_near(moved, still[order][:, order], 1e-14)


def test_no_graph_is_built() -> None:
    matrix = normal(3, 63).requires_grad_()
    results = [*gram(matrix), weighted_sum(normal(3).requires_grad_(), matrix), finite_rows(matrix)]
    assert not any(result.requires_grad for result in results)


@pytest.mark.parametrize("shape", [(0, 63), (3, 0), (0, 0)])
def test_nothing_in_gives_nothing_out(shape: tuple[int, int]) -> None:
    for got in gram(torch.ones(shape)):
        assert torch.equal(got, torch.zeros(shape[0], shape[0], dtype=torch.float64))
    assert torch.equal(weighted_sum(torch.ones(shape[0]), torch.ones(shape)), torch.zeros(shape[1]))
    assert torch.equal(finite_rows(torch.ones(shape)), torch.ones(shape[0], dtype=torch.bool))


@pytest.mark.parametrize(
    ("matrix", "valid", "message"),
    [
        (torch.ones(3), None, r"torch.float32 of shape \(3,\)"),
        (torch.ones(3, 3, dtype=torch.int64), None, "torch.int64"),
        (torch.ones(3, 3), torch.ones(4, dtype=torch.bool), r"shape \(4,\); allowed: torch.bool of shape \(3,\)"),
        (torch.ones(3, 3), torch.ones(3), "torch.float32 of shape"),
    ],
)
def test_wrong_input_is_named(matrix: torch.Tensor, valid: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gram(matrix, valid)


def test_a_block_size_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="block_bytes is 0"):
        gram(torch.ones(3, 3), block_bytes=0)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_weighted_sum_equals_the_oracle(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix, weights = normal(*shape, dtype=dtype), normal(shape[0], seed=1)
    weights[1::3] = 0
    got = weighted_sum(weights, matrix)
    assert got.dtype == dtype
    wanted = torch.from_numpy(oracle.weighted_sum(weights, matrix)).to(dtype)
    torch.testing.assert_close(got, wanted, rtol=torch.finfo(dtype).eps, atol=1e-14)


def test_weighted_sum_skips_rows_of_weight_zero() -> None:
    matrix = normal(5, 101, dtype=torch.float32)
    weights = torch.tensor([0.25, 0.0, 0.75, 0.0, 0.0])
    wanted = 0.25 * matrix[0].double() + 0.75 * matrix[2].double()
    matrix[1], matrix[3], matrix[4] = torch.nan, torch.inf, -torch.inf
    assert torch.equal(weighted_sum(weights, matrix), wanted.float())
    assert torch.equal(weighted_sum(torch.zeros(5), matrix), torch.zeros(101))


def test_weighted_sum_adds_in_float64() -> None:
    """In float32, 1e8 + 1 is 1e8."""
    matrix = torch.cat([torch.full((1, 3), 1e8), torch.ones(64, 3), torch.full((1, 3), -1e8)])
    assert torch.equal(weighted_sum(torch.ones(66), matrix), torch.full((3,), 64.0))


def test_wrong_weights_are_named() -> None:
    with pytest.raises(ValueError, match=r"weights have shape \(2,\); allowed: \(3,\)"):
        weighted_sum(torch.ones(2), torch.ones(3, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("column", [0, 50, 100])
def test_finite_rows_finds_one_bad_entry(column: int, poison: float, dtype: torch.dtype) -> None:
    matrix = normal(5, 101, dtype=dtype)
    matrix[0] = min(torch.finfo(dtype).max, LARGEST)
    matrix[1] = max(torch.finfo(dtype).min, -LARGEST)
    matrix[2] = torch.finfo(dtype).smallest_normal / 4
    matrix[3, column] = poison
    assert finite_rows(matrix).tolist() == [True, True, True, False, True]
    assert finite_rows(matrix.T.contiguous().T).tolist() == [True, True, True, False, True]


def test_rows_whose_sums_overflow_are_finite_beside_one_that_is_not() -> None:
    large_ND = torch.full((3, 1000), torch.finfo(torch.float32).max)
    large_ND[1, ::2] *= -1
    assert finite_rows(large_ND).tolist() == [True, True, True]
    large_ND[2, 999] = torch.inf
    assert finite_rows(large_ND).tolist() == [True, True, False]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("column", [0, 50, 100])
def test_a_number_whose_square_is_as_good_as_infinite_is_not_finite(column: int, sign: int) -> None:
    matrix = normal(4, 101)
    matrix[1, column] = sign * LARGEST
    matrix[2, column] = sign * np.nextafter(LARGEST, np.inf)
    assert finite_rows(matrix).tolist() == [True, True, False, True]
    assert all(part.isfinite().all() for part in gram(matrix[:2].repeat(40, 30)))
