"""The CPU's way through a wide matrix against the device's, whatever the number of workers, within little memory."""

from collections.abc import Iterator

import pytest
import torch

from rflbat_kernels import distances_to_sum, finite_rows, gram, weighted_sum
from rflbat_kernels.gram import cpu, shares
from rflbat_kernels.gram import torch as by_torch
from tests.kernels.allocations import Allocations
from tests.kernels.closeness import assert_near, normal
from tests.oracles import kernels as oracle


@pytest.fixture(params=[1, 2, 3])
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Set the number of threads; each takes a share however small."""
    monkeypatch.setattr(shares, "WORTH_A_WORKER", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


def test_shares_cover_the_columns_once(workers: int) -> None:
    bounds = shares.in_shares(lambda start, stop: (start, stop), 101, 10**9)
    assert len(bounds) == workers
    assert [column for start, stop in bounds for column in range(start, stop)] == list(range(101))


def test_few_columns_are_the_work_of_few(workers: int) -> None:
    assert shares.in_shares(lambda start, stop: (start, stop), 1, 10**9) == [(0, 1)]


def test_little_work_is_done_by_one() -> None:
    assert len(shares.in_shares(lambda start, stop: None, 101, shares.WORTH_A_WORKER)) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 63), (13, 5001), (67, 101)])
def test_products_equal_the_devices(workers: int, shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = normal(*shape, dtype=dtype) + 0.5
    row = torch.arange(len(matrix)).roll(1)
    for rows in (None, row):
        on_host = cpu._anchored_products(matrix, rows, 8 * 13 * 40)
        on_device = by_torch._anchored_products(matrix, rows, 8 * 13 * 40)
        for got, wanted in zip(on_host, on_device, strict=True):
            assert_near(got, wanted, 4e-14)


def test_weighted_sum_and_finite_rows_with_any_number_of_workers(workers: int) -> None:
    matrix, weights = normal(7, 5001, dtype=torch.float32), normal(7)
    weights[[0, 4]] = 0
    wanted = (weights[:, None] * matrix.double()).sum(0).float()
    matrix[0, 5000], matrix[4, 0] = torch.nan, -torch.inf
    torch.testing.assert_close(weighted_sum(weights, matrix, block_bytes=7 * 8 * 100), wanted)
    assert finite_rows(matrix).tolist() == [False, True, True, True, False, True, True]


def test_the_threads_of_numpy_are_given_back(workers: int) -> None:
    before = [library["num_threads"] for library in shares._libraries().info()]
    gram(normal(7, 5001))
    assert [library["num_threads"] for library in shares._libraries().info()] == before


@pytest.mark.parametrize("masked", [False, True])
def test_no_copy_of_the_matrix_is_made(masked: bool) -> None:
    matrix = normal(64, 300_000, dtype=torch.float32)
    valid = torch.arange(64) != 3 if masked else None
    with Allocations() as allocations:
        gram(matrix, valid)
        weighted_sum(torch.arange(64), matrix)
        finite_rows(matrix)
        distances_to_sum(torch.ones(64) / 64, matrix, valid)
    assert allocations.largest <= shares.CACHED_BYTES
    assert allocations.largest < 0.1 * matrix.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 63), (2, 1), (13, 501)])
def test_distances_to_a_sum_equal_the_oracle(workers: int, shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix, weights = 1e3 + normal(*shape, dtype=dtype), normal(shape[0], seed=1).square()
    weights /= weights.sum()
    wanted = oracle.distances_to_sum(weights, matrix)
    assert_near(distances_to_sum(weights, matrix, block_bytes=8 * 13 * 40), wanted, 1e-12)
    on_device = by_torch._distance_squares(weights, matrix, None, 8 * 13 * 40).sqrt()
    assert_near(on_device, wanted, 1e-12)


def test_invalid_rows_have_no_distance_to_a_sum(workers: int) -> None:
    matrix, weights = normal(7, 501, dtype=torch.float32), torch.ones(7, dtype=torch.float64) / 5
    valid = torch.tensor([True, False, True, True, True, False, True])
    weights[~valid] = 0
    alone = oracle.distances_to_sum(weights[valid], matrix[valid])
    matrix[1], matrix[5, 500] = torch.nan, torch.inf
    for got in (
        distances_to_sum(weights, matrix, valid),
        by_torch._distance_squares(weights, matrix, valid, 4096).sqrt(),
    ):
        assert_near(got[valid], alone, 1e-13)
        assert (got[~valid] == 0).all()


def test_a_far_row_blurs_no_distance_to_a_sum() -> None:
    matrix = normal(9, 101, dtype=torch.float32)
    matrix[2] = 1e38
    weights = torch.ones(9, dtype=torch.float64) / 8
    weights[2] = 0
    got = distances_to_sum(weights, matrix)
    ordinary = torch.tensor([0, 1, 3, 4, 5, 6, 7, 8])
    assert_near(got[ordinary], oracle.distances_to_sum(weights, matrix)[ordinary], 1e-13)


def test_nothing_has_no_distance() -> None:
    assert torch.equal(distances_to_sum(torch.ones(3), torch.ones(3, 0)), torch.zeros(3, dtype=torch.float64))
    assert distances_to_sum(torch.ones(0), torch.ones(0, 3)).shape == (0,)
    with pytest.raises(ValueError, match=r"weights have shape \(2,\); allowed: \(3,\)"):
        distances_to_sum(torch.ones(2), torch.ones(3, 3))
