"""Reviews that can be used, and data sets of token ids made of them."""

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

_LISTED = 3  # files that a source names
_NO_TOKEN = re.compile(r'(?:["\s;:]|<br />)*', re.IGNORECASE)
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of other bytes


@dataclass(frozen=True)
class Reviews:
    """Usable reviews, in the order of their files.

    Attributes:
        texts: the reviews, none empty.
        labels: class of each, from 0.
        writers: natural client of each, such as its author; "" where unknown.
        skipped: number of rows left out, by reason; reasons that did not occur are not listed.
    """

    texts: list[str]
    labels: list[int]
    writers: list[str]
    skipped: dict[str, int]


def usable(
    rows: Iterable[Row | str], fault: Callable[[Row], str | None], place: Path, hint: str
) -> tuple[list[Row], dict[str, int]]:
    """Keep the rows that can be used and count the others.

    Args:
        rows: rows, or the reason why one has no fields.
        fault: the first reason why a row cannot be used, or None.
        place: where the rows come from, for the message.
        hint: ends the message of an error.

    Returns:
        the usable rows, and the number of others by reason, reasons in alphabetical order.

    Raises:
        UserError: no row can be used.

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
    """Judge a text: "empty text" where it has no token, "not UTF-8" where it holds other bytes, else None."""
    if _NO_TOKEN.fullmatch(text):
        return "empty text"
    return "not UTF-8" if _NOT_UTF8.search(text) else None


def counts(skipped: Mapping[str, int]) -> str:
    """Write counts by reason on one line.

    Example:
        >>> counts({"empty text": 2, "bad score": 1}), counts({})
        ('1 bad score, 2 empty text', 'none')
    """
    return ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()) if count) or "none"


def named(paths: Sequence[Path]) -> str:
    """Name files on one line, of many the first three and the number of others.

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
    """Make a data set of token ids; its vocabulary comes from the training texts alone.

    Args:
        name: name in the registry.
        classes: number of labels.
        reviews: texts, labels and writers of both sides.
        train: positions of the training texts.
        test: positions of the test texts.
        vocabulary: largest number of words, ``<pad>`` = 0 and ``<unk>`` = 1 included; at least 3.
        tokens: length of a sample, at least 1; longer texts keep their first tokens, shorter ones get zeros in front.
        tokenizer: a name of ``TOKENIZERS``.
        source: where the reviews were read from.

    Returns:
        samples (tokens,) int32 in the order of the positions; writers, numbered by their sorted names among all
        reviews, where every training text has one.

    Raises:
        UserError: an option is out of range, or the extra ``rflbat[text]`` is not installed.

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
        """Pass the training texts on whole for their words, but keep only the tokens that become a sample."""
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
