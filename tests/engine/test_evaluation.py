"""Legend of the suffixes: n test samples."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from rflbat.attacks.base import Samples
from rflbat.attacks.pixel import pixel
from rflbat.evaluation import BATCH, MEASURES, evaluate
from rflbat.models.base import Model
from rflbat.models.logistic import logistic
from rflbat.parameters import Layout

CLASSES, TARGET = 4, 1
ATTACK = pixel(Samples((1, 5, 7), 1.0), 1.0, size=2)


def oracle(clean_n, triggered_n, labels_n, target):
    """The three rates, counted one sample at a time and rounded once."""
    right = sum(clean == label for clean, label in zip(clean_n, labels_n, strict=True))
    others = [hit == target for hit, label in zip(triggered_n, labels_n, strict=True) if label != target]
    inclusive = sum(hit == target for hit in triggered_n)
    n = len(labels_n)
    excluded = float(Fraction(sum(others), len(others))) if others else np.nan
    return [float(Fraction(right, n)), excluded, float(Fraction(int(inclusive), n))]


def readable_model():
    """A model whose answers are written in the image: in the upper left corner without the trigger, else beside it."""

    def apply(parameters, x):
        answer = torch.where(x[:, 0, 4, 0] == 1, x[:, 0, 0, 1], x[:, 0, 0, 0])
        return torch.nn.functional.one_hot(answer.long(), CLASSES).float() + parameters["bias"]

    return Model("readable", Layout({"bias": (1,)}), lambda stream: torch.zeros(1), apply)


def written(clean_n, triggered_n):
    x = torch.zeros(len(clean_n), 1, 5, 7)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = torch.from_numpy(clean_n).float(), torch.from_numpy(triggered_n).float()
    return x


def measure(clean_n, triggered_n, labels_n, target=TARGET):
    x = written(clean_n, triggered_n)
    return evaluate(readable_model(), torch.zeros(1), x, torch.from_numpy(labels_n), ATTACK, target).tolist()


def test_rates_of_answers_counted_by_hand():
    labels_n = np.array([0, 1, 2, 3, 1, 0])
    clean_n = np.array([0, 1, 2, 0, 0, 1])  # right: the first three
    triggered_n = np.array([1, 1, 0, 1, 0, 3])  # target: samples 0, 1, 3; of the four others than the target 0 and 3
    assert measure(clean_n, triggered_n, labels_n) == [3 / 6, 2 / 4, 3 / 6]


@pytest.mark.parametrize("n", [1, 63, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 101])
@pytest.mark.parametrize("target", [0, 3])
def test_rates_are_exact_for_every_number_of_batches(n, target):
    rng = np.random.default_rng(n)
    clean_n, triggered_n, labels_n = rng.integers(0, CLASSES, (3, n))
    expected = oracle(clean_n, triggered_n, labels_n, target)
    np.testing.assert_array_equal(measure(clean_n, triggered_n, labels_n, target), expected)


def test_a_perfect_clean_model_has_no_attack_success_but_the_class_share():
    labels_n = np.arange(1001) % CLASSES
    accuracy, excluded, inclusive = measure(labels_n, labels_n, labels_n)
    assert (accuracy, excluded, inclusive) == (1.0, 0.0, 250 / 1001)


def test_a_perfect_backdoor():
    labels_n = np.arange(1001) % CLASSES
    assert measure(labels_n, np.full(1001, TARGET), labels_n) == [1.0, 1.0, 1.0]


def test_without_other_classes_attack_success_is_undefined():
    labels_n = np.full(7, TARGET)
    np.testing.assert_array_equal(measure(labels_n, labels_n, labels_n), [1.0, np.nan, 1.0])


def test_the_test_set_is_not_written_to():
    labels_n = torch.arange(63) % CLASSES
    x = torch.rand(63, 1, 5, 7, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    model = logistic((1, 5, 7), CLASSES)
    evaluate(model, model.init(np.random.default_rng(0)), x, labels_n, ATTACK, TARGET)
    assert torch.equal(x, before)


def test_the_order_and_type_of_the_answer():
    labels_n = np.array([0, 1, 2])
    model = readable_model()
    x = written(labels_n, labels_n)
    answer = evaluate(model, torch.zeros(1), x, torch.from_numpy(labels_n), ATTACK, TARGET)
    assert MEASURES == ("accuracy", "attack_success_rate", "attack_success_rate_inclusive")
    assert answer.dtype == torch.float64
    assert answer.shape == (3,)
