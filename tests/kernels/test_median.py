"""Masked median against numpy and against the oracle."""

import numpy as np
import pytest
import torch

from rflbat_kernels import masked_median
from tests.kernels.closeness import assert_near, normal
from tests.oracles import kernels as oracle


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 63, 100])
def test_equals_numpy(count: int, dtype: torch.dtype) -> None:
    values = normal(count, dtype=dtype)
    got = masked_median(values, torch.ones(count, dtype=torch.bool))
    assert got.dtype == torch.float64
    assert got.item() == np.median(values.double().numpy()) == oracle.median(values.tolist())


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
@pytest.mark.parametrize("fill", [torch.nan, torch.inf, -torch.inf])
def test_invalid_entries_may_hold_anything(fill: float, dim: int) -> None:
    values = normal(5, 7, 9)
    valid = torch.from_numpy(np.random.default_rng(1).random((5, 7, 9)) < 0.6)
    values[~valid] = fill
    hidden = np.where(valid, values, np.nan)
    assert valid.any(dim).all()
    assert_near(masked_median(values, valid, dim), np.nanmedian(hidden, axis=dim), 0.0)


def test_the_mask_broadcasts() -> None:
    values, valid = normal(7, 63), torch.arange(7) != 3
    wanted = np.median(values[valid], axis=0)
    values[3] = torch.nan
    assert_near(masked_median(values, valid[:, None], dim=0), wanted, 0.0)


def test_nothing_valid_gives_nan_there_and_only_there() -> None:
    valid = torch.tensor([[False, False, False], [True, False, False], [True, True, True]])
    got = masked_median(torch.tensor([1.0, 2.0, 4.0]).expand(3, 3), valid)
    assert got[0].isnan()
    assert got[1:].tolist() == [1.0, 2.0]
    assert masked_median(torch.ones(3, 0), torch.ones(3, 0, dtype=torch.bool)).isnan().all()


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1.0, torch.inf, torch.inf], torch.inf),
        ([-torch.inf, 1.0, torch.inf], 1.0),
        ([-torch.inf, -torch.inf], -torch.inf),
        ([1.0, torch.inf], torch.inf),
        ([-torch.inf, torch.inf], torch.nan),
        ([1.0, 2.0, torch.nan], torch.nan),
    ],
)
def test_valid_infinities_and_nans_count(values: list[float], wanted: float) -> None:
    padded = torch.tensor([*values, torch.nan, 0.0])
    valid = torch.tensor([True] * len(values) + [False, False])
    np.testing.assert_equal(masked_median(padded, valid).item(), wanted)


def test_the_mean_of_the_middle_two_is_taken_in_float64() -> None:
    middle = torch.tensor([3e38, 3.2e38])
    assert masked_median(middle, torch.ones(2, dtype=torch.bool)).item() == middle.double().mean().item()


def test_any_layout_and_order() -> None:
    values = normal(63, 7)
    valid = values > -1
    got = masked_median(values.T, valid.T)
    assert torch.equal(got, masked_median(values, valid, dim=0))
    order = torch.from_numpy(np.random.default_rng(1).permutation(63))
    assert torch.equal(got, masked_median(values[order], valid[order], dim=0))


def test_no_graph_is_built_and_nothing_is_written() -> None:
    values = normal(63).requires_grad_()
    before = values.detach().clone()
    assert not masked_median(values, before > 0).requires_grad
    assert torch.equal(values, before)


def test_wrong_types_are_named() -> None:
    with pytest.raises(ValueError, match=r"torch.int64 and valid is torch.bool"):
        masked_median(torch.ones(3, dtype=torch.int64), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"valid is torch.float32"):
        masked_median(torch.ones(3), torch.ones(3))
