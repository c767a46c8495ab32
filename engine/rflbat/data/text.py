"""Texts as token ids: tokenizers, vocabularies, left padding, and a balanced split without leakage.

Source of the tokens: torchtext 0.18's ``basic_english``, reimplemented from its rules, because torchtext cannot be
imported with torch versions after 2.3.
"""

import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from rflbat.errors import UserError, nearest

Tokenize = Callable[[str], list[str]]

PADDING = 0
UNKNOWN = 1
SPECIAL = ("<pad>", "<unk>")

_REPLACED = (
    *(("'", " '  "), ('"', ""), (".", " . "), ("<br />", " "), (",", " , "), ("(", " ( "), (")", " ) ")),
    *(("!", " ! "), ("?", " ? "), (";", " "), (":", " ")),
)
_NEITHER = re.compile(r"[\W_]+")  # neither letter nor digit: "_" is the only ``\w`` that fails ``str.isalnum``
_TEST_SHARE = 5  # one text in five is a test text


def basic_english() -> Tokenize:
    """Build torchtext's ``basic_english`` tokenizer from the package ``tokenizers``.

    The text is lower-cased. Then, in this order, ``'`` becomes a token of its own, ``"`` is removed, ``.`` becomes a
    token, ``<br />`` a space, ``,`` ``(`` ``)`` ``!`` ``?`` tokens, ``;`` and ``:`` a space; the result is split at
    white space. Lower-casing and white space follow Python, as in torchtext; the package's own rules differ for a final
    Greek sigma, for letters newer than Python's Unicode tables, and for the separators U+001C to U+001F. A lone
    surrogate is read as U+FFFD.

    Returns:
        function from a text to its tokens.

    Raises:
        UserError: the package is not installed.

    Example:
        >>> basic_english()('It\\'s "great"; really!<br />Yes')
        ['it', "'", 's', 'great', 'really', '!', 'yes']
    """
    try:
        from tokenizers import normalizers  # an optional extra
    except ImportError as error:
        raise UserError(
            f"texts need the package tokenizers, which cannot be imported ({error}); pip install 'rflbat[text]'"
        ) from error
    rules = normalizers.Sequence([normalizers.Replace(found, put) for found, put in _REPLACED])

    def tokenize(text: str) -> list[str]:
        lower = text.lower()
        try:
            return rules.normalize_str(lower).split()
        except UnicodeEncodeError:
            whole = lower.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return rules.normalize_str(whole).split()

    return tokenize


def torchtext_basic_english() -> Tokenize:
    """Return the tokenizer of an installed torchtext, for comparison with ``basic_english``.

    Returns:
        function from a text to its tokens.

    Raises:
        UserError: torchtext cannot be imported; the message gives the reason.

    Example:
        >>> torchtext_basic_english()  # doctest: +SKIP
    """
    try:
        tokenize: Tokenize = importlib.import_module("torchtext.data.utils").get_tokenizer("basic_english")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"tokenizer is 'torchtext', but torchtext cannot be imported ({reason}); its last version, 0.18, needs "
            "torch 2.3; allowed: basic_english, which produces the same tokens"
        ) from error
    return tokenize


TOKENIZERS: dict[str, Callable[[], Tokenize]] = {
    "basic_english": basic_english,
    "torchtext": torchtext_basic_english,
}


def make_tokenizer(name: str) -> Tokenize:
    """Build the tokenizer with a name in ``TOKENIZERS``.

    Args:
        name: "basic_english" or "torchtext".

    Returns:
        function from a text to its tokens.

    Raises:
        UserError: the name is unknown, or a required package is not installed.

    Example:
        >>> make_tokenizer("basic_english")("Good, isn't it?")
        ['good', ',', 'isn', "'", 't', 'it', '?']
    """
    if name not in TOKENIZERS:
        raise UserError(f"unknown tokenizer {name!r}{nearest(name, TOKENIZERS)}; known: {', '.join(TOKENIZERS)}")
    return TOKENIZERS[name]()


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary and its tokenizer.

    Attributes:
        words: index = id; 0 is ``<pad>``, 1 is ``<unk>``.
        tokenize: function from a text to its tokens.

    Example:
        >>> Vocabulary(("<pad>", "<unk>", "a", "b"), str.split).encode("b a c")
        [3, 2, 1]
    """

    words: tuple[str, ...]
    tokenize: Tokenize

    @cached_property
    def _ids(self) -> dict[str, int]:
        # A text may contain "<pad>" or "<unk>" as a token, which then is an unknown word like any other.
        return {word: number for number, word in enumerate(self.words) if number >= len(SPECIAL)}

    def ids(self, tokens: Iterable[str]) -> list[int]:
        """Return the id of each token; unknown words have id 1."""
        return [self._ids.get(token, UNKNOWN) for token in tokens]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text's tokens, without truncation or padding."""
        return self.ids(self.tokenize(text))


def frequent_words(token_lists: Iterable[Sequence[str]], size: int) -> tuple[str, ...]:
    """Choose the words of a vocabulary: the most frequent tokens, by descending count, ties in alphabetical order.

    Args:
        token_lists: tokens of each training text, untruncated.
        size: maximum number of words, including the two special ones; at least 3.

    Returns:
        ``<pad>``, ``<unk>``, then at most size - 2 tokens.

    Raises:
        UserError: size is below 3.

    Example:
        >>> frequent_words([["b", "c", "b"], ["a", "d"]], 5)
        ('<pad>', '<unk>', 'b', 'a', 'c')
    """
    if size <= len(SPECIAL):
        raise UserError(f"vocabulary is {size}; allowed: at least 3 ({SPECIAL[0]}, {SPECIAL[1]} and one word)")
    counts = Counter(token for tokens in token_lists for token in tokens)
    for word in SPECIAL:
        del counts[word]
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return (*SPECIAL, *ranked[: size - len(SPECIAL)])


def pad_in_front(id_lists: Sequence[Sequence[int]], tokens: int) -> Tensor:
    """Truncate long texts to their first ids and left-pad short ones with zeros.

    Padding is on the left because an LSTM that reads zeros after a text has forgotten the text at the end.

    Args:
        id_lists: ids of each text.
        tokens: target length, at least 1.

    Returns:
        (n, tokens) int32.

    Raises:
        UserError: tokens is below 1.

    Example:
        >>> pad_in_front([[5, 6], [7, 8, 9, 2]], 3).tolist()
        [[0, 5, 6], [7, 8, 9]]
    """
    if tokens < 1:
        raise UserError(f"tokens is {tokens}; allowed: at least 1")
    padded = np.full((len(id_lists), tokens), PADDING, dtype=np.int32)
    for row, ids in zip(padded, id_lists, strict=True):
        kept = ids[:tokens]
        row[tokens - len(kept) :] = kept
    return torch.from_numpy(padded)


def distinct(texts: Iterable[str]) -> dict[bytes, int]:
    """Find the first occurrence of each distinct text, ignoring all but lower-case letters and digits.

    Spaces, punctuation and ``<br />`` are ignored because copies of a review differ in them. (``a part`` and ``apart``
    therefore count as one text, too.) Texts without any letter or digit, such as ``:-)`` or ``???``, are compared by
    their ``basic_english`` tokens joined without spaces, so that they remain distinct.

    Args:
        texts: any texts; those without a token (only white space, ``"``, ``;``, ``:``, ``<br />``) are skipped.

    Returns:
        position of the first occurrence of each text by its key, 16 bytes of BLAKE2b over the compared form; the key
        depends on the text only.

    Example:
        >>> list(distinct(["Good, but", "", 'GOOD; "but"...', "bad", "???", "!"]).values())
        [0, 3, 4, 5]
    """
    firsts: dict[bytes, int] = {}
    for position, text in enumerate(texts):
        bare = text.lower().replace('"', "").replace("<br />", " ")
        written = _NEITHER.sub("", bare) or "".join(bare.replace(";", " ").replace(":", " ").split())
        if written:
            key = blake2b(written.encode("utf-8", "surrogatepass"), digest_size=16, person=b"rflbat split").digest()
            firsts.setdefault(key, position)
    return firsts


def balanced(firsts: Mapping[bytes, int], labels: Sequence[int], per_class: int | None) -> list[int]:
    """Take the first texts of each class in the order of their keys, which is as good as shuffled.

    Args:
        firsts: position of each text by its key, as returned by ``distinct``.
        labels: class of each position.
        per_class: texts per class, at least 1; a class with fewer contributes all it has. None takes all texts.

    Returns:
        positions in the order of the keys, classes mixed.

    Example:
        >>> balanced({b"c": 0, b"a": 1, b"d": 2, b"b": 3}, [7, 7, 9, 9], 1)
        [1, 3]
    """
    taken = [key for keys in _by_class(firsts, labels).values() for key in keys[:per_class]]
    return [firsts[key] for key in sorted(taken)]


def split(firsts: Mapping[bytes, int], labels: Sequence[int], per_class: int) -> tuple[list[int], list[int]]:
    """Take equally many texts of each class and split them 80/20 into training and test texts.

    The split is deterministic: texts are ordered by their keys, which is as good as shuffled and independent of their
    order in a file. Of the first ``per_class`` texts of each class, the first fifth (at least one) are test texts and
    the rest training texts.

    Args:
        firsts: position of each text by its key, as returned by ``distinct``, so no text can be in both parts.
        labels: class of each position.
        per_class: texts per class, at least 2; a class with fewer contributes all it has.

    Returns:
        positions of the training texts and of the test texts, each in the order of the keys, classes mixed.

    Example:
        >>> split({b"c": 0, b"a": 1, b"d": 2, b"b": 3}, [7, 7, 9, 9], 2)
        ([0, 2], [1, 3])
    """
    train: list[bytes] = []
    test: list[bytes] = []
    for keys in _by_class(firsts, labels).values():
        taken = keys[:per_class]
        held_out = max(1, len(taken) // _TEST_SHARE)
        test += taken[:held_out]
        train += taken[held_out:]
    return [firsts[key] for key in sorted(train)], [firsts[key] for key in sorted(test)]


def _by_class(firsts: Mapping[bytes, int], labels: Sequence[int]) -> dict[int, list[bytes]]:
    """List the keys of each class, sorted."""
    keys: dict[int, list[bytes]] = {}
    for key in sorted(firsts):
        keys.setdefault(labels[firsts[key]], []).append(key)
    return keys
