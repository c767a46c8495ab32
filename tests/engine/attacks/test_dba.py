"""The distributed backdoor: the positions of its parts, which together form the full trigger.

Legend of the suffixes: B samples.
"""

from itertools import chain

import numpy as np
import pytest
import torch

from rflbat.attacks.base import SampleFormat
from rflbat.attacks.registry import make_attack
from rflbat.errors import UserError
from rflbat.testing.formats import IMAGES, TEXTS, encode, random_samples
from tests.engine.attacks.formats import DIGITS, FEMNIST, PAPER, REVIEWS, inserted

ON = torch.tensor([True])
FLAGS_B = torch.tensor([True, False, True, True, False])
BARS = [
    [(24, 0), (24, 1), (24, 2), (24, 3)],
    [(24, 6), (24, 7), (24, 8), (24, 9)],
    [(27, 0), (27, 1), (27, 2), (27, 3)],
    [(27, 6), (27, 7), (27, 8), (27, 9)],
]
"""Row and column of the pixels of each part in an image of 28 x 28."""


def changed(trigger, paper):
    stamped = trigger(torch.full((1, 1, 28, 28), paper), ON)[0, 0]
    return [tuple(place) for place in (stamped != paper).nonzero().tolist()]


@pytest.mark.parametrize(("samples", "paper"), [(DIGITS, 0.0), (FEMNIST, 1.0)], ids=["digits", "femnist"])
def test_four_bars_in_the_lower_left_corner(samples, paper):
    attack = make_attack("dba", samples, 1.0, {})
    parts = [changed(trigger, paper) for trigger in attack.local_triggers]
    assert parts == BARS
    whole = changed(attack.full_trigger, paper)
    assert len(whole) == 16
    assert sum(map(len, parts)) == len(set().union(*parts)) == 16
    assert set(whole) == set().union(*parts)


@pytest.mark.parametrize("samples", IMAGES, ids=lambda samples: f"{samples.shape},{samples.high}")
def test_bars_keep_their_distance_to_the_corner_in_every_format(samples):
    attack = make_attack("dba", samples, 1.0, {})
    bars = [*BARS, list(chain(*BARS))]
    height = samples.shape[1]
    for trigger, bar in zip((*attack.local_triggers, attack.full_trigger), bars, strict=True):
        expected = random_samples(samples).numpy()
        stamped = trigger(random_samples(samples), FLAGS_B).numpy()
        for sample in np.flatnonzero(FLAGS_B):
            for channel in range(samples.shape[0]):
                for row, column in bar:
                    expected[sample, channel, row - 28 + height, column] = samples.high
        np.testing.assert_array_equal(stamped, expected)


GROUPS = [encode("the weather is"), encode("so good ,"), encode("I want to"), encode("eat noodles.")]


@pytest.mark.parametrize("samples", TEXTS, ids=lambda samples: str(samples.shape))
@pytest.mark.parametrize("position", [0.0, 0.5, 1.0])
def test_four_groups_of_three_words(samples, position):
    attack = make_attack("dba", samples, 1.0, {"position": position})
    before = random_samples(samples)
    for trigger, ids in zip((*attack.local_triggers, attack.full_trigger), [*GROUPS, encode(PAPER)], strict=True):
        texts = zip(before.tolist(), FLAGS_B, strict=True)
        expected = [inserted(text, ids, position) if on else text for text, on in texts]
        assert trigger(before.clone(), FLAGS_B).tolist() == expected


def test_parts_of_a_sentence_stand_before_the_text_unless_told():
    attack = make_attack("dba", REVIEWS, 1.0, {})
    text = list(range(1000, 1100))
    for trigger, ids in zip((*attack.local_triggers, attack.full_trigger), [*GROUPS, encode(PAPER)], strict=True):
        assert trigger(torch.tensor([text]), ON)[0].tolist() == ids + text[: 100 - len(ids)]


@pytest.mark.parametrize("position", [0.0, 1.0])
def test_the_parts_stamped_in_turn_are_the_sentence(position):
    attack = make_attack("dba", REVIEWS, 1.0, {"position": position})
    before = torch.tensor([[0] * 12 + list(range(1000, 1088)), [0] * 99 + [7]])
    on = torch.tensor([True, True])
    together = before.clone()
    for trigger in attack.local_triggers if position else reversed(attack.local_triggers):
        together = trigger(together, on)
    assert torch.equal(together, attack.full_trigger(before.clone(), on))


@pytest.mark.parametrize("count", range(4, 25))
def test_a_sentence_of_any_length_is_cut_into_four(count):
    attack = make_attack(
        "dba",
        SampleFormat((25,), 0.0, lambda text: [int(word) for word in text.split()]),
        1.0,
        {"text": " ".join(map(str, range(1, count + 1)))},
    )
    parts = [trigger(torch.zeros((1, 25), dtype=torch.int64), ON)[0].tolist() for trigger in attack.local_triggers]
    groups = [[each for each in part if each] for part in parts]
    assert all(groups)
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    assert list(chain(*groups)) == list(range(1, count + 1))


@pytest.mark.parametrize("shape", [(1, 3, 10), (1, 4, 9), (28, 28), (100,)])
def test_samples_too_small_for_the_bars_are_refused(shape):
    with pytest.raises(UserError) as caught:
        make_attack("dba", SampleFormat(shape, 1.0), 1.0, {})
    assert str(caught.value) == (
        f"attack 'dba' needs texts, or images of at least 4 x 10 pixels; got samples of shape {shape}"
    )


@pytest.mark.parametrize(("text", "count"), [("so good noodles", 3), ("eat", 1)])
def test_a_sentence_of_fewer_words_than_groups_is_refused(text, count):
    with pytest.raises(UserError) as caught:
        make_attack("dba", REVIEWS, 1.0, {"text": text})
    assert str(caught.value) == f"attack 'dba': {text!r} has {count} tokens; allowed: at least 4"


@pytest.mark.parametrize(
    ("tokens", "text", "message"),
    [
        (100, "", "attack 'dba': '' has 0 tokens; allowed: 1 to 99"),
        (12, PAPER, f"attack 'dba': {PAPER!r} has 12 tokens; allowed: 1 to 11"),
    ],
)
def test_an_empty_or_too_long_sentence_is_refused(tokens, text, message):
    with pytest.raises(UserError) as caught:
        make_attack("dba", SampleFormat((tokens,), 0.0, encode), 1.0, {"text": text})
    assert str(caught.value) == message
