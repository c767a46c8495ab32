"""Filtering of reviews, and text data sets built from them."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rflbat.data.base import Dataset
from rflbat.data.tables import Row
from rflbat.data.text import Vocabulary, frequent_words, make_tokenizer, pad_in_front
from rflbat.errors import UserError

_LISTED = 3  # number of files named in ``source``
_NO_TOKEN = re.compile(r'(?:["\s;:]|<br />)*', re.IGNORECASE)
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # "surrogateescape" decodes invalid bytes to these


@dataclass(frozen=True)
class Reviews:
    """Usable reviews, in the order of their files.

    Attributes:
        texts: the reviews, none empty.
        labels: class of each review, from 0.
        writers: natural client of each review, such as its author; "" if unknown.
        skipped: number of skipped rows by reason; reasons that did not occur are omitted.
    """

    texts: list[str]
    labels: list[int]
    writers: list[str]
    skipped: dict[str, int]


def usable(
    rows: Iterable[Row | str], fault: Callable[[Row], str | None], place: Path, hint: str
) -> tuple[list[Row], dict[str, int]]:
    """Keep the usable rows and count the others by reason.

    Args:
        rows: rows, or for a row without fields the reason.
        fault: function that returns the first reason why a row is unusable, or None.
        place: where the rows come from, for the message.
        hint: end of every error message.

    Returns:
        the usable rows, and the number of skipped rows by reason, in alphabetical order of the reasons.

    Raises:
        UserError: no row is usable.

    Example:
        >>> usable([("a",), ("",), "unreadable row"], lambda row: None if row[0] else "empty", Path("x.csv"), "")
        ([('a',)], {'empty': 1, 'unreadable row': 1})
    """
    kept: list[Row] = []
    skipped: Counter[str] = Counter()
    for row in rows:
        if isinstance(row, str):
            skipped[row] += 1
        elif (reason := fault(row)) is not None:
            skipped[reason] += 1
        else:
            kept.append(row)
    if not kept:
        raise UserError(f"{place}: holds no usable review (skipped: {counts(skipped)}); {hint}")
    return kept, dict(sorted(skipped.items()))


def text_fault(text: str) -> str | None:
    """Return "empty text" for a text without a token, "not UTF-8" for one with invalid bytes, else None."""
    if _NO_TOKEN.fullmatch(text):
        return "empty text"
    return "not UTF-8" if _NOT_UTF8.search(text) else None


def counts(skipped: Mapping[str, int]) -> str:
    """Format counts by reason on one line.

    Example:
        >>> counts({"empty text": 2, "bad score": 1}), counts({})
        ('1 bad score, 2 empty text', 'none')
    """
    return ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()) if count) or "none"


def named(paths: Sequence[Path]) -> str:
    """Format file names on one line: at most three, and the number of others.

    Example:
        >>> named([Path("a"), Path("b")]), named([Path(name) for name in "abcde"])
        ('a, b', 'a, b, c and 2 more')
    """
    rest = len(paths) - _LISTED
    return ", ".join(map(str, paths[:_LISTED])) + (f" and {rest} more" if rest > 0 else "")


def text_dataset(
    name: str,
    classes: int,
    reviews: Reviews,
    train: Sequence[int],
    test: Sequence[int],
    *,
    vocabulary: int,
    tokens: int,
    tokenizer: str,
    source: str,
) -> Dataset:
    """Build a data set of token ids; its vocabulary is built from the training texts only.

    Args:
        name: name in the registry.
        classes: number of labels.
        reviews: texts, labels and writers of both parts.
        train: positions of the training texts.
        test: positions of the test texts.
        vocabulary: maximum number of words, including ``<pad>`` = 0 and ``<unk>`` = 1; at least 3.
        tokens: length of a sample, at least 1; longer texts keep their first tokens, shorter ones are left-padded.
        tokenizer: a key of ``TOKENIZERS``.
        source: where the reviews were read from.

    Returns:
        samples (tokens,) int32 in the order of the positions. If every training text has a writer, the writers are
        positions in the sorted list of all writers of ``reviews``.

    Raises:
        UserError: an argument is out of range, or the extra ``rflbat[text]`` is not installed.

    Example:
        >>> toy = Reviews(["Good film", "Bad film"], [1, 0], ["ann", "bob"], {})
        >>> options = {"vocabulary": 9, "tokens": 3, "tokenizer": "basic_english", "source": "here"}
        >>> data = text_dataset("toy", 2, toy, [0], [1], **options)
        >>> data.train_x.tolist(), data.test_x.tolist(), data.words
        ([[0, 3, 2]], [[0, 1, 2]], ('<pad>', '<unk>', 'film', 'good'))
    """
    tokenize = make_tokenizer(tokenizer)
    begun: list[list[str]] = []

    def whole() -> Iterator[list[str]]:
        """Yield the complete training texts to count words, and keep only the first tokens of each as its sample."""
        for row in train:
            text = tokenize(reviews.texts[row])
            begun.append(text[:tokens])
            yield text

    known = Vocabulary(frequent_words(whole(), vocabulary), tokenize)
    return Dataset(
        name=name,
        train_x=pad_in_front([known.ids(text) for text in begun], tokens),
        train_y=torch.tensor([reviews.labels[row] for row in train]),
        test_x=pad_in_front([known.ids(tokenize(reviews.texts[row])[:tokens]) for row in test], tokens),
        test_y=torch.tensor([reviews.labels[row] for row in test]),
        classes=classes,
        shape=(tokens,),
        low=0.0,
        high=0.0,
        scale=1.0,
        train_writers=_writers(reviews.writers, train),
        model="lstm",
        source=source,
        words=known.words,
        encode=known.encode,
    )


def _writers(names: Sequence[str], rows: Sequence[int]) -> torch.Tensor | None:
    if not all(names[row] for row in rows):
        return None
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return torch.tensor([numbers[names[row]] for row in rows])
