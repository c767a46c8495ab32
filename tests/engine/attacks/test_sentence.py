"""The sentence trigger against plain lists, and the paper's sentence on the real reviews.

Legend of the suffixes: B samples, T tokens of a text.
"""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rflbat.attacks.base import SampleFormat
from rflbat.attacks.registry import make_attack
from rflbat.attacks.sentence import SENTENCE, insert
from rflbat.errors import UserError
from rflbat.testing.formats import encode
from tests.engine.attacks.formats import DIGITS, PAPER, REVIEWS, inserted

property_test = settings(derandomize=True, deadline=None, max_examples=100)
ON = torch.tensor([True])
POSITIONS = [0.0, 0.25, 0.5, 1.0]


@st.composite
def cases(draw):
    """Length, sentence, its position, and texts of every length with who is flagged; ids recur, also the sentence's."""
    tokens = draw(st.integers(2, 13))
    ids = draw(st.lists(st.integers(1, 9), min_size=1, max_size=tokens - 1))
    text = st.tuples(st.lists(st.integers(1, 9), max_size=tokens), st.booleans())
    position = draw(st.integers(0, 16)) / 16  # exact in every float type
    return tokens, ids, position, draw(st.lists(text, min_size=1, max_size=5))


@property_test
@given(case=cases())
def test_a_sentence_is_inserted_as_into_lists(case):
    tokens, ids, position, texts = case
    padded = [[0] * (tokens - len(words)) + words for words, _ in texts]
    flagged = [on for _, on in texts]
    expected = [inserted(text, ids, position) if on else text for text, on in zip(padded, flagged, strict=True)]
    assert insert(ids, position)(torch.tensor(padded), torch.tensor(flagged)).tolist() == expected


@pytest.mark.parametrize("tokens", [13, 20, 100])
@pytest.mark.parametrize("position", POSITIONS)
def test_the_sentence_survives_a_text_of_any_length(tokens, position):
    trigger = make_attack("sentence", SampleFormat((tokens,), 0.0, encode), 1.0, {"position": position}).full_trigger
    ids = encode(PAPER)
    for length in range(tokens + 1):
        own = list(range(1000, 1000 + length))
        stamped = trigger(torch.tensor([[0] * (tokens - length) + own]), ON)[0].tolist()
        kept = min(length, tokens - 12)
        padding, rest = stamped[: tokens - 12 - kept], stamped[tokens - 12 - kept :]
        assert padding == [0] * len(padding)
        place = rest.index(ids[0])
        assert rest[place : place + 12] == ids
        assert rest[:place] + rest[place + 12 :] == own[:kept]
        assert abs(place - position * kept) <= 0.5


def test_the_paper_s_sentence_before_the_text_is_the_default():
    assert SENTENCE == PAPER
    trigger = make_attack("sentence", REVIEWS, 1.0, {}).full_trigger
    sentence = list(range(2, 14))
    assert trigger(torch.zeros((1, 100), dtype=torch.int64), ON)[0].tolist() == [0] * 88 + sentence
    text = list(range(1000, 1100))
    assert trigger(torch.tensor([text]), ON)[0].tolist() == sentence + text[:88]


@pytest.mark.parametrize(("position", "place"), [("0", 0), ("0.5", 48), ("1", 96)])
def test_another_sentence_at_another_place(position, place):
    arguments = {"text": "So good, unheard!", "position": position}
    stamped = make_attack("sentence", REVIEWS, 1.0, arguments).full_trigger(torch.full((1, 100), 30), ON)[0].tolist()
    assert stamped == [30] * place + [5, 6, 7, 1] + [30] * (96 - place)


def test_the_encoder_of_the_samples_is_given_the_text_as_it_is():
    asked = []

    def spy(text):
        asked.append(text)
        return [3, 4]

    trigger = make_attack("sentence", SampleFormat((5,), 0.0, spy), 1.0, {"text": "So  GOOD!"}).full_trigger
    texts = torch.tensor([[0, 0, 0, 9, 8], [1, 2, 5, 6, 7]])
    assert trigger(texts, torch.tensor([True, True])).tolist() == [[0, 3, 4, 9, 8], [3, 4, 1, 2, 5]]
    assert set(asked) == {"So  GOOD!"}


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_sentence_is_refused(text):
    with pytest.raises(UserError) as caught:
        make_attack("sentence", REVIEWS, 1.0, {"text": text})
    assert str(caught.value) == f"attack 'sentence': {text!r} has 0 tokens; allowed: 1 to 99"


@pytest.mark.parametrize("tokens", [12, 5])
def test_a_sentence_that_leaves_no_word_of_the_text_is_refused(tokens):
    with pytest.raises(UserError) as caught:
        make_attack("sentence", SampleFormat((tokens,), 0.0, encode), 1.0, {})
    assert str(caught.value) == f"attack 'sentence': {PAPER!r} has 12 tokens; allowed: 1 to {tokens - 1}"


@pytest.mark.parametrize("name", ["sentence", "dba"])
@pytest.mark.parametrize("position", [-0.1, 1.5, "nan"])
def test_a_position_outside_of_the_text_is_refused(name, position):
    with pytest.raises(UserError) as caught:
        make_attack(name, REVIEWS, 1.0, {"position": position})
    assert str(caught.value) == f"attack '{name}': position={position} is out of range; allowed: 0 to 1"


def test_a_sentence_needs_texts():
    with pytest.raises(UserError) as caught:
        make_attack("sentence", DIGITS, 1.0, {})
    assert str(caught.value) == ("attack 'sentence' needs texts; got samples of shape (1, 28, 28) without a vocabulary")


def test_the_reviews_know_every_word_of_the_paper_s_sentence():
    named = os.environ.get("RFLBAT_DATA_DIR")
    if not named:
        pytest.skip("RFLBAT_DATA_DIR is unset: it names the folder that holds amazon_fine_food/")
    pytest.importorskip("tokenizers", reason="tokens need the package tokenizers: pip install 'rflbat[text]'")
    from rflbat.data.amazon import load

    reviews = load(Path(named))
    assert reviews.words is not None
    assert reviews.encode is not None
    ids = reviews.encode(SENTENCE)
    assert " ".join(reviews.words[each] for each in ids) == "the weather is so good , i want to eat noodles ."
    assert len(ids) == 12
    assert min(ids) > 1
    trigger = make_attack("sentence", SampleFormat(reviews.shape, reviews.high, reviews.encode), 1.0, {}).full_trigger
    before = reviews.test_x[:63].to(torch.int64)
    stamped = trigger(before.clone(), torch.ones(63, dtype=torch.bool))
    assert stamped.tolist() == [inserted(text, ids) for text in before.tolist()]


def test_the_host_stamps_its_own_texts_where_training_runs_elsewhere():
    """The trigger's tensors are stored on both devices; stamping copies nothing between them."""
    trigger = insert([7, 8], 0.0, "meta")
    assert trigger(torch.tensor([[0, 0, 5]]), torch.tensor([True])).tolist() == [[7, 8, 5]]
    assert trigger(torch.zeros(1, 3, dtype=torch.int64, device="meta"), torch.ones(1, device="meta") > 0).is_meta
