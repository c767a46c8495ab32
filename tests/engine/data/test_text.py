"""Tokens against rules written here once more, and the vocabulary, padding and split of texts."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rflbat.data.text import (
    TOKENIZERS,
    Vocabulary,
    balanced,
    basic_english,
    distinct,
    frequent_words,
    make_tokenizer,
    pad_in_front,
    split,
)
from rflbat.errors import UserError

pytest.importorskip("tokenizers", reason="tokens need the package tokenizers: pip install 'rflbat[text]'")

property_test = settings(derandomize=True, deadline=None, max_examples=100)

# The documented rules, as regular expressions: each is applied to the whole text before the next.
RULES = [
    (r"'", " '  "),
    (r'"', ""),
    (r"\.", " . "),
    (r"<br />", " "),
    (r",", " , "),
    (r"\(", " ( "),
    (r"\)", " ) "),
    (r"!", " ! "),
    (r"\?", " ? "),
    (r"[;:]", " "),
    (r"\s+", " "),
]
SPACES = "".join(character for character in map(chr, range(0x3100)) if character.isspace())
ODD = st.text(alphabet="aB'\".,()!?;:<br/> \t\n\r\x1c\x1f\x85\xa0\u2028ΣσßİÅ\u0307北\ufeff\u200b\0😀", max_size=40)


def oracle(text: str) -> list[str]:
    text = text.lower()
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    return text.split()


@pytest.fixture(scope="module")
def stored() -> list[dict[str, object]]:
    named = os.environ.get("RFLBAT_DATA_DIR")
    if not named:
        pytest.skip("RFLBAT_DATA_DIR is unset: reference/basic_english.json lies beside the folder that it names")
    path = Path(named).parent / "reference/basic_english.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there: it holds texts with torchtext's own tokens")
    return json.loads(path.read_text(encoding="utf-8"))


# Tokens.


def test_tokens_are_torchtexts_own_on_stored_texts(stored: list[dict[str, object]]) -> None:
    tokenize = basic_english()
    assert len(stored) == 160
    for case in stored:
        assert tokenize(str(case["text"])) == case["tokens"]
        assert oracle(str(case["text"])) == case["tokens"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        (" \t\r\n", []),
        ('";:<br />', []),
        ("Isn't THIS good?!", ["isn", "'", "t", "this", "good", "?", "!"]),
        ('six"pack of 2.5 oz; cost: $3,99', ["sixpack", "of", "2", ".", "5", "oz", "cost", "$3", ",", "99"]),
        ("one<br />two<BR />three<br/>four", ["one", "two", "three<br/>four"]),
        ('<br "/>a<br/ >b<br  />', ["a<br/", ">b<br", "/>"]),  # quotes go before <br /> is looked for
        ("(a)b", ["(", "a", ")", "b"]),
        ("half-price & low_fat [new] a@b", ["half-price", "&", "low_fat", "[new]", "a@b"]),
        ("''", ["'", "'"]),
        ("ΟΔΟΣ ΣΑΣ. İ ẞ", ["οδος", "σας", ".", "i̇", "ß"]),  # a final sigma; a letter that becomes two
        ("a\x1cb\x1fc\x85d\xa0e\u2003f\u2028g", list("abcdefg")),  # all white space of Python
        ("a\u200bb \ufeffc \0", ["a\u200bb", "\ufeffc", "\0"]),  # no white space
        ("<unk> <pad>", ["<unk>", "<pad>"]),
        ("\ud83d\ude00 \ud83d x", ["😀", "\ufffd", "x"]),  # a pair of surrogates, half a pair
    ],
)
def test_tokens_of_odd_texts(text: str, tokens: list[str]) -> None:
    assert basic_english()(text) == tokens


@property_test
@given(st.one_of(ODD, st.text(max_size=60)))
def test_tokens_are_those_of_the_rules(text: str) -> None:
    assert basic_english()(text) == oracle(text)


def test_every_letter_and_every_space_is_pythons() -> None:
    letters = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    spread = " x".join(letters)
    assert basic_english()(spread) == oracle(spread)
    assert basic_english()("a".join(SPACES)) == ["a"] * (len(SPACES) - 1)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"^texts need the package tokenizers, .*; pip install 'rflbat\[text\]'$"):
        basic_english()


@pytest.mark.parametrize("name", ["basic-english", "Basic_English"])
def test_an_unknown_tokenizer_is_told_with_the_nearest(name: str) -> None:
    with pytest.raises(UserError, match=r"did you mean 'basic_english'\?; known: basic_english, torchtext$"):
        make_tokenizer(name)


def put_torchtext(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchtext"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchtext/data").mkdir(parents=True)
    (tmp_path / "torchtext/__init__.py").write_text("")
    (tmp_path / "torchtext/data/__init__.py").write_text("")
    (tmp_path / "torchtext/data/utils.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)


def test_torchtext_is_used_where_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_torchtext(tmp_path, monkeypatch, "def get_tokenizer(name):\n    return lambda text: [name, text]\n")
    assert make_tokenizer("torchtext")("A b") == ["basic_english", "A b"]


@pytest.mark.parametrize("source", ["raise OSError('undefined symbol: x\\nmore')", "import no_such_module_x", ""])
def test_torchtext_that_does_not_load_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    put_torchtext(tmp_path, monkeypatch, source)
    with pytest.raises(UserError) as caught:
        make_tokenizer("torchtext")
    message = str(caught.value)
    assert message.startswith("tokenizer is 'torchtext', but torchtext cannot be imported (")
    assert any(reason in message for reason in ("undefined symbol: x)", "no_such_module_x", "get_tokenizer"))
    assert "\n" not in message
    assert "allowed: basic_english" in message
    assert set(TOKENIZERS) == {"basic_english", "torchtext"}


# Vocabulary.


def test_words_stand_by_falling_count_and_equals_alphabetically() -> None:
    texts = [["b", "z", "b", "é"], ["a", "z", "c"], ["B", "z"]]
    assert frequent_words(texts, 100) == ("<pad>", "<unk>", "z", "b", "B", "a", "c", "é")
    assert frequent_words(reversed(texts), 6) == ("<pad>", "<unk>", "z", "b", "B", "a")


@property_test
@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "<pad>", "<unk>", "d"]))), st.integers(3, 8))
def test_words_are_few_different_and_the_most_frequent(texts: list[list[str]], size: int) -> None:
    words = frequent_words(texts, size)
    assert words[:2] == ("<pad>", "<unk>")
    assert len(set(words)) == len(words) <= size
    flat = [word for text in texts for word in text]
    assert list(words[2:]) == sorted(words[2:], key=lambda word: (-flat.count(word), word))
    left = set(flat) - set(words)
    assert len(words) == size or not left
    assert all((-flat.count(words[-1]), words[-1]) < (-flat.count(word), word) for word in left)


@pytest.mark.parametrize("size", [2, 0, -1])
def test_too_small_a_vocabulary_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"^vocabulary is {size}; allowed: at least 3 "):
        frequent_words([["a"]], size)


def test_unknown_and_special_words_of_a_text_are_unknown() -> None:
    vocabulary = Vocabulary(("<pad>", "<unk>", "good", "."), basic_english())
    assert vocabulary.encode("Good. <pad> <unk> bad") == [2, 3, 1, 1, 1]
    assert vocabulary.encode("") == []


# Padding.


def test_zeros_stand_in_front_and_the_first_tokens_stay() -> None:
    padded = pad_in_front([[], [2], [2, 3, 4], [2, 3, 4, 5]], 3)
    assert padded.dtype == torch.int32
    assert padded.tolist() == [[0, 0, 0], [0, 0, 2], [2, 3, 4], [2, 3, 4]]
    assert pad_in_front([], 3).shape == (0, 3)


@pytest.mark.parametrize("tokens", [0, -5])
def test_no_tokens_are_refused(tokens: int) -> None:
    with pytest.raises(UserError, match=f"^tokens is {tokens}; allowed: at least 1$"):
        pad_in_front([[1]], tokens)


# Split.


@property_test
@given(st.lists(st.one_of(ODD, st.text(max_size=10), st.text("aA1;!_ \u0307", max_size=4)), max_size=20))
def test_texts_of_the_same_letters_and_digits_are_one(texts: list[str]) -> None:
    firsts = distinct(texts)
    kept = list(firsts.values())
    assert kept == sorted(kept)
    bare = [text.lower().replace('"', "").replace("<br />", "") for text in texts]
    written = [
        "".join(filter(str.isalnum, each)) or "".join(oracle(text)) for each, text in zip(bare, texts, strict=True)
    ]
    assert [written[position] for position in kept] == list(dict.fromkeys(word for word in written if word))


def test_letters_and_digits_are_those_of_python() -> None:
    every = "".join(map(chr, range(0x110000))).lower()
    kept = "".join(filter(str.isalnum, every))
    assert list(distinct([every, kept, kept[1:], kept[:-1]]).values()) == [0, 2, 3]


def test_texts_without_letters_and_digits_stay_apart() -> None:
    assert list(distinct(["???", "? ? ?", "!", ":-)", "-)", ":; ", "a!", "_", "a"]).values()) == [0, 2, 3, 6, 7]


def test_keys_depend_on_the_text_alone() -> None:
    assert list(distinct(["Good!"])) == list(distinct(["good"])) == [bytes.fromhex("00c3b0a7f99431d46c8bfecabfe94a9a")]
    assert set(distinct(["b", "a"])) == set(distinct(["a", "c", "b", "a"])) - set(distinct(["c"]))
    assert len(distinct(["\ud83d", "\ud83c"])) == 2


LABELLED = st.lists(st.tuples(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), st.integers(0, 2)), max_size=60)


@property_test
@given(LABELLED, st.integers(2, 12))
def test_no_text_stands_on_both_sides(rows: list[tuple[str, int]], per_class: int) -> None:
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    firsts = distinct(texts)
    train, test = split(firsts, labels, per_class)
    sides = [texts[position] for position in (*train, *test)]
    assert len(set(sides)) == len(sides)
    for label in range(3):
        held = sum(labels[position] == label for position in firsts.values())
        taken = min(held, per_class)
        tested = sum(labels[position] == label for position in test)
        assert sum(labels[position] == label for position in train) + tested == taken
        assert tested == (max(1, taken // 5) if taken else 0)


@property_test
@given(LABELLED, st.one_of(st.none(), st.integers(1, 12)))
def test_a_part_has_the_first_texts_of_each_class_by_key(rows: list[tuple[str, int]], per_class: int | None) -> None:
    firsts, labels = distinct(text for text, _ in rows), [label for _, label in rows]
    taken = set(balanced(firsts, labels, per_class))
    order = [firsts[key] for key in sorted(firsts)]
    assert balanced(firsts, labels, per_class) == [position for position in order if position in taken]
    for label in range(3):
        own = [position for position in order if labels[position] == label]
        assert taken & set(own) == set(own if per_class is None else own[:per_class])


@property_test
@given(LABELLED, st.randoms())
def test_the_order_of_rows_changes_nothing(rows: list[tuple[str, int]], random: object) -> None:
    rows = list(dict(rows).items())  # one label for each text
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    sides = []
    for order in (rows, shuffled):
        parts = split(distinct(text for text, _ in order), [label for _, label in order], 8)
        sides.append([[order[position][0] for position in part] for part in parts])
    assert sides[0] == sides[1]
