"""Updates in arrays of other libraries: the same decision as from numpy, and nothing that was given is changed."""

from typing import Any

import numpy as np
import pytest
import torch

from rflbat import Decision, UserError, aggregate
from rflbat.interop.sklearn import DefenseAggregator

DEFENSES = ["fedavg", "rflbat", "median", "foolsgold", "krum"]
PARAMETERS = 40
SIZES = [3, 1, 4, 1, 5, 9, 2, 6]


class CupyLike:
    """Interface of CuPy's arrays: a device, a stream to wait for, and a capsule."""

    def __init__(self, array_ND: Any) -> None:
        self.held_ND = torch.tensor(array_ND)
        self.exports = 0

    def __dlpack__(self, *, stream: Any = None, **keywords: Any) -> Any:
        self.exports += 1
        return self.held_ND.__dlpack__(stream=stream, **keywords)

    def __dlpack_device__(self) -> Any:
        return self.held_ND.__dlpack_device__()


def updates(dtype: Any = np.float32) -> Any:
    rows_ND = np.random.default_rng(1).normal(size=(8, PARAMETERS)).astype(dtype)
    rows_ND[0] *= 30.0
    return rows_ND


def same(have: Decision, want: Decision) -> None:
    for name in ("update", "kept", "weights", "scores"):
        torch.testing.assert_close(getattr(have, name), getattr(want, name), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("defense", DEFENSES)
def test_an_array_like_those_of_cupy(defense: str, dtype: Any) -> None:
    rows_ND = updates(dtype)
    array = CupyLike(rows_ND)
    same(aggregate(array, defense, sizes=SIZES), aggregate(rows_ND, defense, sizes=SIZES))
    assert array.exports == 1
    np.testing.assert_array_equal(array.held_ND.numpy(), rows_ND)


@pytest.mark.parametrize("defense", DEFENSES)
def test_an_array_of_jax(defense: str) -> None:
    jax = pytest.importorskip("jax")
    rows_ND = updates()
    array_ND = jax.numpy.asarray(rows_ND)
    same(aggregate(array_ND, defense, sizes=SIZES), aggregate(rows_ND, defense, sizes=SIZES))
    np.testing.assert_array_equal(np.asarray(array_ND), rows_ND)
    estimator = DefenseAggregator(defense)
    np.testing.assert_array_equal(estimator.fit_predict(array_ND), estimator.fit_predict(rows_ND))


@pytest.mark.parametrize("defense", DEFENSES)
def test_arrays_that_are_read_only_or_lie_otherwise(defense: str) -> None:
    rows_ND = updates()
    want = aggregate(rows_ND, defense, sizes=SIZES)
    still_ND = rows_ND.copy()
    still_ND.flags.writeable = False
    spread_ND = np.zeros((16, 2 * PARAMETERS), np.float32)
    spread_ND[::2, 1::2] = rows_ND
    for array_ND in (still_ND, spread_ND[::2, 1::2], np.asfortranarray(rows_ND), rows_ND[::-1].copy()[::-1]):
        np.testing.assert_array_equal(array_ND, rows_ND)
        same(aggregate(array_ND, defense, sizes=SIZES), want)
        np.testing.assert_array_equal(array_ND, rows_ND)
    same(aggregate(CupyLike(spread_ND).held_ND[::2, 1::2], defense, sizes=SIZES), want)


def test_the_estimator_takes_them() -> None:
    have = DefenseAggregator("krum", {"f": 1}).fit(CupyLike(updates()))
    want = DefenseAggregator("krum", {"f": 1}).fit(updates())
    np.testing.assert_array_equal(have.kept_, want.kept_)
    np.testing.assert_array_equal(have.aggregate_, want.aggregate_)


def test_whole_numbers_are_refused() -> None:
    with pytest.raises(UserError, match=r"updates are of type torch.int64; expected a floating-point type"):
        aggregate(CupyLike(np.ones((3, 2), np.int64)))
