from dataclasses import replace

import numpy as np
import torch
from sklearn.datasets import load_digits

from rflbat.data.base import as_inputs
from rflbat.data.digits import load


def test_shapes_types_and_facts() -> None:
    digits = load()
    assert digits.train_x.shape == (1442, 1, 28, 28)
    assert digits.test_x.shape == (355, 1, 28, 28)
    assert digits.train_x.dtype == digits.test_x.dtype == torch.uint8
    assert digits.train_y.dtype == digits.test_y.dtype == torch.int64
    assert (len(digits.train_y), len(digits.test_y)) == (1442, 355)
    assert (digits.name, digits.classes, digits.shape, digits.model) == ("digits", 10, (1, 28, 28), "logistic")
    assert digits.train_writers is None


def test_pixels_are_the_bilinear_enlargement() -> None:
    """Against torch's own interpolation, in float64: rounding to whole grey levels is all that may differ."""
    stored, labels = load_digits(return_X_y=True)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(stored).reshape(-1, 1, 8, 8) * 255 / 16, size=28, mode="bilinear", align_corners=False
    )
    digits = load()
    test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[4::5]] = True
    for images, targets, rows in (
        (digits.train_x, digits.train_y, ~test),
        (digits.test_x, digits.test_y, test),
    ):
        assert (images.double() - wanted[torch.from_numpy(rows)]).abs().max() <= 0.5 + 1e-9
        assert targets.tolist() == labels[rows].tolist()


def test_split_is_stratified_80_20() -> None:
    digits = load()
    train = torch.bincount(digits.train_y, minlength=10)
    test = torch.bincount(digits.test_y, minlength=10)
    assert int(train.sum() + test.sum()) == 1797
    torch.testing.assert_close(test, (train + test) // 5, rtol=0, atol=0)


def test_same_bytes_each_time() -> None:
    first, second = load(), load()
    assert torch.equal(first.train_x, second.train_x)
    assert torch.equal(first.test_y, second.test_y)


def test_as_float_reaches_low_and_high_exactly() -> None:
    digits = load()
    x = as_inputs(digits.train_x, digits)
    assert x.dtype == torch.float32
    assert float(x.min()) == digits.low == 0.0
    assert float(x.max()) == digits.high == 1.0
    torch.testing.assert_close(x, digits.train_x / 255, rtol=2e-7, atol=0)  # a rounding of 1/255 apart


def test_as_float_never_shares_memory_with_float_storage() -> None:
    digits = load()
    stored = digits.test_x[:3] / 255
    floats = replace(digits, test_x=stored, scale=1.0)
    as_inputs(floats.test_x, floats).fill_(9.0)
    assert float(stored.max()) <= 1.0
