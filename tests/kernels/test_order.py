"""Statistics of sorted columns against loops over Python lists."""

import statistics
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch

from rflbat_kernels import (
    column_central_mean,
    column_median,
    column_trimmed_mean,
    column_two_means,
    minority_counts,
    using,
)
from tests.kernels.allocations import Allocations
from tests.kernels.closeness import assert_near, normal


@pytest.fixture(params=["cpu", "torch"], autouse=True)
def implementation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run every test by both implementations: on a CPU, and as on any device, which never reads how many rows count."""
    with using(dict.fromkeys(COLUMN_OPERATIONS, request.param)):
        yield


COLUMN_OPERATIONS = ("column_median", "column_trimmed_mean", "column_central_mean", "column_two_means")
SHAPES = [(1, 1), (1, 63), (2, 63), (3, 7), (7, 1), (12, 63), (67, 33)]


def number(value: int) -> torch.Tensor:
    return torch.tensor(value)


def columns(matrix: torch.Tensor) -> list[list[float]]:
    return [sorted(column) for column in matrix.double().T.tolist()]


def trimmed(values: list[float], trim: int) -> float:
    return statistics.fmean(values[trim : len(values) - trim])


def central(values: list[float], nearest: int) -> float:
    middle = statistics.median(values)
    return statistics.fmean(sorted(values, key=lambda value: (abs(value - middle), value))[:nearest])


def divided(values: list[float]) -> tuple[float, float, int]:
    """Distance, cut and smaller side of the best division, in exact arithmetic."""
    exact = [Fraction(value) for value in values]
    best, answer = Fraction(0), (0.0, values[0], 0)
    for low in range(1, len(exact)):
        high = len(exact) - low
        gap = sum(exact[low:]) / high - sum(exact[:low]) / low
        if gap**2 * low * high > best:
            best, answer = gap**2 * low * high, (float(gap), values[low - 1], (low > high) - (low < high))
    return answer


FUNCTIONS: dict[str, Callable[..., object]] = {
    "median": column_median,
    "trimmed": lambda matrix, *mask, **more: column_trimmed_mean(matrix, number(2), *mask, **more),
    "central": lambda matrix, *mask, **more: column_central_mean(matrix, number(3), *mask, **more),
    "two means": column_two_means,
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def parts(result: object) -> tuple[torch.Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("shape", SHAPES)
def test_median(shape: tuple[int, int]) -> None:
    matrix = normal(*shape)
    assert column_median(matrix).tolist() == np.median(matrix.numpy(), axis=0).tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_trimmed_mean(shape: tuple[int, int]) -> None:
    matrix = normal(*shape)
    for trim in range((shape[0] + 1) // 2):
        wanted = [trimmed(values, trim) for values in columns(matrix)]
        assert_near(column_trimmed_mean(matrix, number(trim)), wanted, 1e-14)


def test_as_much_is_trimmed_as_leaves_an_entry() -> None:
    for rows in (1, 2, 5, 6):
        matrix = normal(rows, 7)
        torch.testing.assert_close(column_trimmed_mean(matrix, number(99)), column_median(matrix))


@pytest.mark.parametrize("shape", SHAPES)
def test_central_mean(shape: tuple[int, int]) -> None:
    matrix = normal(*shape)
    for nearest in {1, 2, 3, shape[0] // 2 + 1, shape[0] - 1, shape[0], shape[0] + 5} - {0}:
        wanted = [central(values, nearest) for values in columns(matrix)]
        assert_near(column_central_mean(matrix, number(nearest)), wanted, 1e-14)


@pytest.mark.parametrize(
    ("nearest", "wanted"), [(1, [2.0, 5.0]), (2, [1.5, 5.0]), (3, [4 / 3, 5.0]), (4, [1.75, 5.0]), (5, [2.2, 5.0])]
)
def test_of_two_as_far_from_the_median_the_lower_is_taken(nearest: int, wanted: list[float]) -> None:
    matrix = torch.tensor([[4.0, 5.0], [3.0, 5.0], [1.0, 5.0], [2.0, 5.0], [1.0, 5.0]], dtype=torch.float64)
    assert column_central_mean(matrix, number(nearest)).tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_two_means(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = normal(*shape, dtype=dtype)
    split = column_two_means(matrix)
    distances, cuts, sides = zip(*(divided(values) for values in columns(matrix)), strict=True)
    assert_near(split.distance_D, distances, 1e-13)
    assert (split.distance_D.dtype, split.cut_D.dtype, split.minority_D.dtype) == (torch.float64, dtype, torch.int8)
    assert split.cut_D.tolist() == list(cuts)
    assert split.minority_D.tolist() == list(sides)


@pytest.mark.parametrize(
    ("column", "distance", "cut", "minority"),
    [
        ([0.0, 1.0, 2.0], 1.5, 0.0, -1),
        ([-1.1, 0.0, 1.1], 1.65, -1.1, -1),
        ([1e3 + 1 / 3, 1e3 + 2 / 3, 1e3 + 1], 0.5, 1e3 + 1 / 3, -1),
        ([0.0, 0.0, 1.0, 1.0], 1.0, 0.0, 0),
        ([0.0, 0.0, 0.0, 1.0], 1.0, 0.0, 1),
        ([7.0, 7.0, 7.0], 0.0, 7.0, 0),
        ([7.0], 0.0, 7.0, 0),
        ([0.0, 1.0, 2.0, 1e38], 1e38, 2.0, 1),
        ([-1e38, 0.0, 1.0, 2.0], 1e38, -1e38, -1),
        ([-1e300, 0.0, 1.0, 2.0], 1e300, -1e300, -1),
    ],
)
def test_divisions_by_hand(column: list[float], distance: float, cut: float, minority: int) -> None:
    for order in (column, column[::-1]):
        split = column_two_means(torch.tensor(order, dtype=torch.float64)[:, None])
        assert [*map(torch.Tensor.tolist, split)] == [[pytest.approx(distance, rel=1e-12)], [cut], [minority]]


@pytest.mark.parametrize("block_bytes", [1, 700, 2**20])
def test_minority_counts(block_bytes: int) -> None:
    matrix = normal(12, 63) + 4.0 * (normal(12, 1, seed=1) > 0.8)
    split = column_two_means(matrix)
    chosen = normal(63, seed=2) > 0
    wanted = [0] * 12
    for at in range(63):
        above = (matrix[:, at] > split.cut_D[at]).tolist()
        if chosen[at] and 2 * sum(above) != 12:
            for row in range(12):
                wanted[row] += above[row] == (sum(above) < 6)
    assert minority_counts(matrix, split, chosen, block_bytes=block_bytes).tolist() == wanted


@every_function
@pytest.mark.parametrize("fill", [torch.nan, torch.inf, -torch.inf, -1e30])
@pytest.mark.parametrize("rows", [1, 2, 3, 6, 7])
def test_rows_that_do_not_count_may_hold_anything(name: str, rows: int, fill: float) -> None:
    matrix, valid = normal(9, 33), torch.from_numpy(np.random.default_rng(1).permutation(9)) < rows
    alone = parts(FUNCTIONS[name](matrix[valid]))
    matrix[~valid] = fill
    for masked_part, part in zip(parts(FUNCTIONS[name](matrix, valid)), alone, strict=True):
        assert torch.equal(masked_part, part)


@every_function
def test_no_row_counts(name: str) -> None:
    result = parts(FUNCTIONS[name](torch.full((5, 3), torch.nan), torch.zeros(5, dtype=torch.bool)))
    assert result[0].tolist() == [0.0] * 3


@every_function
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_block_size_changes_no_bit(name: str, dtype: torch.dtype) -> None:
    matrix, valid = normal(67, 101, dtype=dtype) * 10 ** normal(67, 1, seed=1, dtype=dtype), torch.arange(67) % 9 > 0
    whole = parts(FUNCTIONS[name](matrix, valid))
    for block_bytes in (1, 8 * 67 * 2, 8 * 67 * 7, 8 * 67 * 33, 8 * 67 * 100):
        for part, other in zip(whole, parts(FUNCTIONS[name](matrix, valid, block_bytes=block_bytes)), strict=True):
            assert part.numpy().tobytes() == other.numpy().tobytes()


@every_function
def test_rows_and_columns_may_come_in_any_order_and_layout(name: str) -> None:
    matrix = normal(12, 63)
    order = torch.from_numpy(np.random.default_rng(1).permutation(12))
    straight = parts(FUNCTIONS[name](matrix))
    for other in (matrix[order], matrix.T.contiguous().T, torch.stack([matrix, matrix], 2)[:, :, 1]):
        assert all(map(torch.equal, parts(FUNCTIONS[name](other)), straight))
    assert all(torch.equal(a, b.flip(0)) for a, b in zip(parts(FUNCTIONS[name](matrix.flip(1))), straight, strict=True))


@every_function
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_short_floats_are_sorted_as_they_are_and_averaged_in_float64(name: str, dtype: torch.dtype) -> None:
    matrix = normal(12, 63, dtype=dtype)
    for part, exact in zip(parts(FUNCTIONS[name](matrix)), parts(FUNCTIONS[name](matrix.double())), strict=True):
        assert torch.equal(part, exact.to(part.dtype))


@pytest.mark.parametrize("value", [0.1, 1e38, -3e38, 1e-40])
def test_equal_entries_give_exactly_themselves(value: float) -> None:
    matrix = torch.full((11, 3), value)
    for name in ("median", "trimmed", "central"):
        assert torch.equal(FUNCTIONS[name](matrix), matrix[0])


def test_the_largest_numbers_neither_overflow_nor_leave_a_trace() -> None:
    matrix = normal(9, 63)
    hostile = matrix.clone()
    hostile[0], hostile[1] = 1.7e308, -1.7e308
    assert torch.equal(column_trimmed_mean(hostile, number(1)), column_trimmed_mean(matrix[2:], number(0)))
    central_part = column_central_mean(hostile, number(3))
    assert torch.equal(central_part, column_central_mean(matrix[2:], number(3)))
    for function in FUNCTIONS.values():
        huge = torch.full((4, 5), 1.7e308, dtype=torch.float64)
        assert all(part.isfinite().all() for part in parts(function(huge)))


@every_function
def test_nothing_is_as_large_as_the_matrix(name: str) -> None:
    matrix, block_bytes = normal(20, 20_000, dtype=torch.float32), 80_000
    with Allocations() as allocations:
        FUNCTIONS[name](matrix, torch.arange(20) > 0, block_bytes=block_bytes)
    vector = 20_000 * 8
    assert block_bytes <= allocations.largest <= vector < matrix.untyped_storage().nbytes() / 5


def test_control_a_copy_is_seen() -> None:
    matrix = normal(20, 100)
    with Allocations() as allocations:
        matrix.T[:50].T.sum(0)
        assert allocations.largest == 50 * 8
        matrix.clone()
    assert allocations.largest == 20 * 100 * 8


@every_function
def test_no_graph_is_built_and_nothing_is_written(name: str) -> None:
    matrix = normal(7, 5).requires_grad_()
    before = matrix.detach().clone()
    assert not any(part.requires_grad for part in parts(FUNCTIONS[name](matrix)))
    assert torch.equal(matrix, before)


@every_function
@pytest.mark.parametrize(
    ("matrix", "mask", "more", "message"),
    [
        (torch.ones(3), (), {}, r"shape \(3,\)"),
        (torch.ones(0, 3), (), {}, r"N at least 1"),
        (torch.ones(3, 3, dtype=torch.int64), (), {}, "torch.int64"),
        (torch.ones(3, 3), (torch.ones(2, dtype=torch.bool),), {}, r"the mask is torch.bool of shape \(2,\)"),
        (torch.ones(3, 3), (), {"block_bytes": 0}, "block_bytes is 0"),
    ],
)
def test_wrong_input_is_named(
    name: str, matrix: torch.Tensor, mask: tuple[torch.Tensor, ...], more: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[name](matrix, *mask, **more)


@every_function
def test_a_matrix_without_columns(name: str) -> None:
    assert all(part.shape == (0,) for part in parts(FUNCTIONS[name](torch.ones(3, 0))))
