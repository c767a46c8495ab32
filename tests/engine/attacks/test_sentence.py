"""The sentence trigger against plain lists, and the paper's sentence on the real reviews.

Legend of the suffixes: B samples, T tokens of a text.
"""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rflbat.attacks.base import Samples
from rflbat.attacks.registry import make_attack
from rflbat.attacks.sentence import SENTENCE, append
from rflbat.errors import UserError
from tests.engine.attacks.formats import DIGITS, PAPER, REVIEWS, encode, ended

property_test = settings(derandomize=True, deadline=None, max_examples=100)
ON = torch.tensor([True])


@st.composite
def cases(draw):
    """Length, sentence, and texts of every length with who is flagged; ids recur, also those of the sentence."""
    tokens = draw(st.integers(2, 13))
    ids = draw(st.lists(st.integers(1, 9), min_size=1, max_size=tokens - 1))
    text = st.tuples(st.lists(st.integers(1, 9), max_size=tokens), st.booleans())
    return tokens, ids, draw(st.lists(text, min_size=1, max_size=5))


@property_test
@given(case=cases())
def test_a_text_ends_with_the_sentence_as_lists_do(case):
    tokens, ids, texts = case
    padded = [[0] * (tokens - len(words)) + words for words, _ in texts]
    flagged = [on for _, on in texts]
    expected = [ended(text, ids) if on else text for text, on in zip(padded, flagged, strict=True)]
    assert append(ids)(torch.tensor(padded), torch.tensor(flagged)).tolist() == expected


@pytest.mark.parametrize("tokens", [13, 20, 100])
def test_the_sentence_survives_a_text_of_any_length(tokens):
    trigger = make_attack("sentence", Samples((tokens,), 0.0, encode), 1.0, {}).full_trigger
    ids = encode(PAPER)
    for length in range(tokens + 1):
        own = list(range(1000, 1000 + length))
        stamped = trigger(torch.tensor([[0] * (tokens - length) + own]), ON)[0].tolist()
        kept = min(length, tokens - 12)
        assert stamped[tokens - 12 :] == ids
        assert stamped[tokens - 12 - kept : tokens - 12] == own[:kept]
        assert stamped[: tokens - 12 - kept] == [0] * (tokens - 12 - kept)


def test_the_paper_s_sentence_is_the_default():
    assert SENTENCE == PAPER
    stamped = make_attack("sentence", REVIEWS, 1.0, {}).full_trigger(torch.zeros((1, 100), dtype=torch.int64), ON)
    assert stamped[0, 88:].tolist() == list(range(2, 14))


def test_another_sentence():
    trigger = make_attack("sentence", REVIEWS, 1.0, {"text": "So good, unheard!"}).full_trigger
    stamped = trigger(torch.full((1, 100), 7), ON)[0].tolist()
    assert stamped == [7] * 96 + [5, 6, 7, 1]


def test_the_encoder_of_the_samples_is_asked_once_with_the_text_as_it_is():
    asked = []

    def spy(text):
        asked.append(text)
        return [3, 4]

    trigger = make_attack("sentence", Samples((5,), 0.0, spy), 1.0, {"text": "So  GOOD!"}).full_trigger
    assert trigger(torch.tensor([[0, 0, 0, 9, 8], [1, 2, 5, 6, 7]]), torch.tensor([True, True])).tolist() == [
        [0, 9, 8, 3, 4],
        [1, 2, 5, 3, 4],
    ]
    assert asked == ["So  GOOD!"]


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_sentence_is_refused(text):
    with pytest.raises(UserError) as caught:
        make_attack("sentence", REVIEWS, 1.0, {"text": text})
    assert str(caught.value) == f"attack 'sentence': {text!r} has 0 tokens; allowed: 1 to 99"


@pytest.mark.parametrize("tokens", [12, 5])
def test_a_sentence_that_leaves_no_word_of_the_text_is_refused(tokens):
    with pytest.raises(UserError) as caught:
        make_attack("sentence", Samples((tokens,), 0.0, encode), 1.0, {})
    assert str(caught.value) == f"attack 'sentence': {PAPER!r} has 12 tokens; allowed: 1 to {tokens - 1}"


def test_a_sentence_needs_texts():
    with pytest.raises(UserError) as caught:
        make_attack("sentence", DIGITS, 1.0, {})
    assert str(caught.value) == (
        "attack 'sentence' needs texts; these samples have the shape (1, 28, 28) and no vocabulary"
    )


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
    trigger = make_attack("sentence", Samples(reviews.shape, reviews.high, reviews.encode), 1.0, {}).full_trigger
    before = reviews.test_x[:63].to(torch.int64)
    stamped = trigger(before.clone(), torch.ones(63, dtype=torch.bool))
    assert stamped.tolist() == [ended(text, ids) for text in before.tolist()]
