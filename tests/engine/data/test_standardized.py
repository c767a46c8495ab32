"""Mean and standard deviation of image sets: every value moves, the stored samples do not."""

from pathlib import Path

import pytest
import torch

from rflbat.data.base import as_inputs, standardized
from rflbat.data.mnist import FASHION_MNIST, MNIST
from rflbat.data.registry import DATASETS, load
from rflbat.errors import UserError
from tests.engine.data.conftest import write_family
from tests.engine.data.leaf_files import write_femnist

IMAGES = ("digits", "mnist", "fashion-mnist", "femnist")


@pytest.mark.parametrize("name", IMAGES)
def test_every_image_set_takes_a_mean_and_a_standard_deviation(name: str, tmp_path: Path) -> None:
    for family in (MNIST, FASHION_MNIST):
        write_family(tmp_path / family.folders[0], family.first_labels)
    write_femnist(tmp_path / "femnist")
    plain = load(name, tmp_path)
    moved = load(name, tmp_path, {"mean": 0.1307, "std": 0.3081}.items())
    wanted = (as_inputs(plain.train_x, plain).double() - 0.1307) / 0.3081
    torch.testing.assert_close(as_inputs(moved.train_x, moved).double(), wanted, rtol=0, atol=1e-6)
    assert (moved.low, moved.high) == pytest.approx(((plain.low - 0.1307) / 0.3081, (plain.high - 0.1307) / 0.3081))
    assert torch.equal(plain.train_x, moved.train_x)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (0.0, 0.0, "std=0.0 is out of range; allowed: a finite number above 0"),
        (0.0, -1.0, "std=-1.0 is out of range"),
        (0.0, float("nan"), "std=nan is out of range"),
        (float("inf"), 1.0, "mean=inf is out of range; allowed: a finite number"),
    ],
)
def test_values_that_cannot_be_used_are_refused(mean: float, std: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        standardized(load("digits"), mean, std)


def test_texts_take_neither() -> None:
    with pytest.raises(TypeError):
        DATASETS["amazon"](None, mean=0.5)
