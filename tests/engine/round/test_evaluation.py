"""The measures against counts of one sample at a time.

Legend of the suffixes: n test samples, B batch, P triggers of a distributed attack.
"""

from fractions import Fraction

import numpy as np
import pytest
import torch

from rflbat.attacks.base import SampleFormat
from rflbat.attacks.dba import dba
from rflbat.attacks.labels import all_to_all, source_to_target
from rflbat.attacks.pixel import pixel
from rflbat.attacks.sentence import sentence
from rflbat.models.base import Model
from rflbat.models.logistic import logistic
from rflbat.models.lstm import lstm
from rflbat.parameters import Layout
from rflbat.randomness import generator
from rflbat.round.evaluation import BATCH, Measured, evaluate
from rflbat.storage.schema import MEASURES
from rflbat.testing.formats import encode
from tests.engine.attacks.formats import inserted

CLASSES, TARGET = 4, 1
ATTACK = pixel(SampleFormat((1, 5, 7), 1.0), 1.0, size=2)


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


def evaluated(model, params_D, x, labels_n, attack, target):
    triggers = (attack.full_trigger, *(attack.local_triggers if len(attack.local_triggers) > 1 else ()))
    return evaluate(model, params_D, Measured(x, labels_n, target), triggers)


def written(clean_n, triggered_n):
    x = torch.zeros(len(clean_n), 1, 5, 7)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = torch.from_numpy(clean_n).float(), torch.from_numpy(triggered_n).float()
    return x


def measure(clean_n, triggered_n, labels_n, target=TARGET):
    x = written(clean_n, triggered_n)
    return evaluated(readable_model(), torch.zeros(1), x, torch.from_numpy(labels_n), ATTACK, target).tolist()


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
    evaluated(model, model.init(np.random.default_rng(0)), x, labels_n, ATTACK, TARGET)
    assert torch.equal(x, before)


def test_the_order_and_type_of_the_answer():
    labels_n = np.array([0, 1, 2])
    model = readable_model()
    x = written(labels_n, labels_n)
    answer = evaluated(model, torch.zeros(1), x, torch.from_numpy(labels_n), ATTACK, TARGET)
    assert MEASURES == ("accuracy", "attack_success_rate", "attack_success_rate_inclusive")
    assert answer.dtype == torch.float64
    assert answer.shape == (3,)


# A distributed attack: the rate of each local trigger too.

DISTRIBUTED = dba(SampleFormat((1, 6, 11), 0.5), 1.0)
SPOTS = [(2, 0), (2, 6), (5, 0), (5, 6)]
"""A pixel of each bar."""


def share(hits, labels_n, target):
    """Share of the samples of other classes that were hit, rounded once."""
    others = [hit for hit, label in zip(hits, labels_n, strict=True) if label != target]
    return float(Fraction(sum(others), len(others))) if others else np.nan


def bars_model():
    """A model whose answers are written in the first row: clean, under all bars, under each bar alone, under others."""

    def apply(parameters, x):
        lit_BP = torch.stack([x[:, 0, row, column] == 0.5 for row, column in SPOTS], 1)
        count_B = lit_BP.sum(1)
        place_B = torch.where(count_B == 1, 2 + lit_BP.int().argmax(1), 6)
        place_B = torch.where(count_B == 0, 0, torch.where(count_B == 4, 1, place_B))
        answer_B = x[:, 0, 0].gather(1, place_B[:, None])[:, 0]
        return torch.nn.functional.one_hot(answer_B.long(), CLASSES).float() + parameters["bias"]

    return Model("bars", Layout({"bias": (1,)}), lambda stream: torch.zeros(1), apply)


@pytest.mark.parametrize("n", [1, 63, BATCH, 2 * BATCH + 101])
@pytest.mark.parametrize("target", [0, 3])
def test_local_rates_are_exact_for_every_number_of_batches(n, target):
    rng = np.random.default_rng(n)
    clean_n, full_n, *local = rng.integers(0, CLASSES, (6, n))
    labels_n = rng.integers(0, CLASSES, n)
    x = torch.zeros(n, 1, 6, 11)
    for place, answers_n in enumerate([clean_n, full_n, *local]):
        x[:, 0, 0, place] = torch.from_numpy(answers_n).float()
    measured = evaluated(bars_model(), torch.zeros(1), x, torch.from_numpy(labels_n), DISTRIBUTED, target)
    expected = oracle(clean_n, full_n, labels_n, target)
    expected += [share(answers_n == target, labels_n, target) for answers_n in local]
    np.testing.assert_array_equal(measured.tolist(), expected)


def test_local_rates_counted_by_hand():
    x = torch.zeros(4, 1, 6, 11)
    x[:, 0, 0, 2:6] = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 1], [3, 1, 2, 1]])
    labels_n = torch.tensor([0, 2, 3, TARGET])  # the last one does not count
    measured = evaluated(bars_model(), torch.zeros(1), x, labels_n, DISTRIBUTED, TARGET)
    assert measured.tolist() == [1 / 4, 0.0, 0.0, 3 / 3, 2 / 3, 1 / 3, 2 / 3]


def test_without_other_classes_local_rates_are_undefined():
    x, labels_n = torch.zeros(7, 1, 6, 11), torch.full((7,), TARGET)
    measured = evaluated(bars_model(), torch.zeros(1), x, labels_n, DISTRIBUTED, TARGET)
    np.testing.assert_array_equal(measured.tolist(), [0.0, np.nan, 0.0, *[np.nan] * 4])


def test_rates_on_texts_are_those_of_one_text_at_a_time():
    samples, model = SampleFormat((17,), 0.0, encode), lstm((17,), CLASSES, 23)
    stream = generator(0, "texts")
    x, labels_n = stream.integers(1, 23, (63, 17)), stream.integers(0, CLASSES, 63)
    for row, length in enumerate(stream.integers(0, 18, 63)):
        x[row, : 17 - length] = 0
    named = model.layout.views(params_D := 3 * model.init(generator(0, "model")))

    def answers(ids):
        texts = [inserted(text, ids) for text in x.tolist()]
        return np.array([int(model.apply(named, torch.tensor([text])).argmax()) for text in texts])

    parts = [encode(part) for part in ("the weather is", "so good,", "I want to", "eat noodles.")]
    clean_n, full_n = answers([]), answers([each for part in parts for each in part])
    expected = oracle(clean_n, full_n, labels_n, TARGET)
    expected += [share(answers(part) == TARGET, labels_n, TARGET) for part in parts]
    given = model, params_D, torch.from_numpy(x), torch.from_numpy(labels_n)
    assert evaluated(*given, dba(samples, 1.0), TARGET).tolist() == expected
    assert len(set(expected[3:])) > 1
    assert evaluated(*given, sentence(samples, 1.0), TARGET).tolist() == expected[:3]
    np.testing.assert_array_equal(given[2].numpy(), x)


def test_the_share_of_a_label_pair_counts_the_eligible_samples():
    labels_n = torch.tensor([0, 1, 1, 2])
    x = written(np.array([0, 3, 1, 3]), np.array([9, 9, 9, 9]))
    poison = source_to_target(1)(labels_n, CLASSES, 3, np.random.default_rng(0))
    measured = Measured(x, labels_n, 3, "labels", poison)
    # Samples 1 and 2 count, and the model answers 3 for the first of them.
    assert evaluate(readable_model(), torch.zeros(1), measured).tolist() == [2 / 4, 1 / 2, 1 / 2]


def test_all_to_all_wants_another_label_of_each_sample():
    labels_n = np.arange(12) % CLASSES
    answers_n = np.where(np.arange(12) < 6, (labels_n + 1) % CLASSES, 0)
    x, labels = written(labels_n, answers_n), torch.from_numpy(labels_n)
    poison = all_to_all(labels, CLASSES, 0, np.random.default_rng(0))
    hits = int((answers_n == (labels_n + 1) % CLASSES).sum())
    measured = Measured(x, labels, 0, "trigger", poison)
    found = evaluate(readable_model(), torch.zeros(1), measured, (ATTACK.full_trigger,))
    assert found.tolist() == [1.0, hits / 12, hits / 12]


def test_a_test_set_of_the_attack_and_none_at_all():
    labels_n = torch.tensor([0, 1])
    x, extra_x = written(np.array([0, 1]), np.array([3, 3])), written(np.array([3, 3, 1]), np.array([0, 0, 0]))
    of_extra = Measured(x, labels_n, 3, "test set", extra_x=extra_x)
    assert evaluate(readable_model(), torch.zeros(1), of_extra).tolist() == [1.0, 2 / 3, 2 / 3]
    untargeted = evaluate(readable_model(), torch.zeros(1), Measured(x, labels_n, 3, "untargeted"))
    np.testing.assert_array_equal(untargeted.tolist(), [1.0, np.nan, np.nan])
