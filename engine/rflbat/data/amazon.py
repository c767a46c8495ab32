"""Amazon Fine Food Reviews: texts with a score of 1 to 5, from Kaggle's Reviews.csv or from two plain text files.

Source: J. McAuley, J. Leskovec, From amateurs to connoisseurs: modeling the evolution of user expertise through online
reviews, 2013 (SNAP web-FineFoods); Kaggle snap/amazon-fine-food-reviews.
"""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch

from rflbat.data.base import Dataset
from rflbat.data.text import Vocabulary, distinct, frequent_words, make_tokenizer, pad_in_front, split
from rflbat.errors import UserError
from rflbat.reading import unpacked

FOLDERS = ("amazon", "amazon_fine_food")
ORIGIN = "kaggle.com/datasets/snap/amazon-fine-food-reviews"

_TABLE = "Reviews.csv"
_TEXTS, _LABELS = "texts.txt", "labels.txt"
_NEEDED = ("Score", "Text")
_WRITER = "UserId"
_CLASSES = 5
_SCORES = {f"{score}{tail}": score for score in range(1, _CLASSES + 1) for tail in ("", ".0")}
_PER_CLASS = 20_000  # of the paper
_WHOLE = 2**32  # bytes of one file, unpacked; Kaggle's has 3 * 10^8
_LONGEST = 2**24  # characters of a line or a field
_NO_TOKEN = re.compile(r'(?:["\s;:]|<br />)*', re.IGNORECASE)
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of other bytes


@dataclass(frozen=True)
class Reviews:
    """The usable reviews of a file, in its order.

    Attributes:
        texts: the reviews, none empty.
        scores: 1..5 of each.
        users: who wrote each; "" where the file does not say.
        skipped: how many rows were left out, by reason; reasons that did not occur are not listed.
        source: the file.
    """

    texts: list[str]
    scores: list[int]
    users: list[str]
    skipped: dict[str, int]
    source: Path


def load(
    data_dir: Path | None = None,
    *,
    per_class: int | None = None,
    vocabulary: int = 56_785,
    tokens: int = 100,
    tokenizer: str = "basic_english",
) -> Dataset:
    """Load the reviews as token ids with the classes score - 1, equally many of each.

    `Reviews.csv` or `Reviews.csv.gz` is looked for in `data_dir` itself, then in `amazon` and `amazon_fine_food` below
    it. Where there is none, `texts.txt` and `labels.txt` (plain or .gz) are looked for in the same places: see
    `read_reviews` for both forms.

    The same text recurs across products. It counts once, with the score of its first row; case, spacing, `"`, `;`, `:`
    and `<br />` make no difference (`rflbat.data.text.distinct`). Of each class `per_class` texts are taken and a fifth
    of them are test texts, chosen by a hash of the text: the same reviews give the same split, in any order of rows,
    and no text stands on both sides. The vocabulary comes from the training texts alone. A text is cut to its first
    `tokens` tokens, or filled up with zeros in front.

    Args:
        data_dir: folder of data sets.
        per_class: texts of each class, training and test together, at least 2; None takes as many as the rarest class
            has, at most 20,000 as in the paper.
        vocabulary: largest number of words, `<pad>` = 0 and `<unk>` = 1 included; at least 3.
        tokens: length of a sample, at least 1.
        tokenizer: "basic_english", or "torchtext" where that is installed and loads.

    Returns:
        training and test samples (tokens,) int32; writers where every training review has a UserId: its place among
        all UserIds of the file, sorted.

    Raises:
        UserError: files are missing, damaged or hold too few usable reviews; an option is out of range; or the extra
            `rflbat[text]` is not installed.

    Example:
        >>> load(Path("no-such-folder"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        rflbat.errors.UserError: ...no-such-folder: there is no such folder; get Reviews.csv from kaggle.com/...
    """
    reviews = read_reviews(*_find(data_dir))
    labels = [score - 1 for score in reviews.scores]
    firsts = distinct(reviews.texts)
    per_class = _checked(per_class, Counter(labels[position] for position in firsts.values()), reviews.source)
    train, test = split(firsts, labels, per_class)
    tokenize = make_tokenizer(tokenizer)
    train_tokens, test_tokens = ([tokenize(reviews.texts[row]) for row in rows] for rows in (train, test))
    known = Vocabulary(frequent_words(train_tokens, vocabulary), tokenize)
    skipped = {**reviews.skipped, "repeated text": len(reviews.texts) - len(firsts)}
    return Dataset(
        name="amazon",
        train_x=pad_in_front([known.ids(text) for text in train_tokens], tokens),
        train_y=torch.tensor([labels[row] for row in train]),
        test_x=pad_in_front([known.ids(text) for text in test_tokens], tokens),
        test_y=torch.tensor([labels[row] for row in test]),
        classes=_CLASSES,
        shape=(tokens,),
        low=0.0,
        high=0.0,
        scale=1.0,
        train_writers=_writers(reviews.users, train),
        model="lstm",
        source=f"{reviews.source} ({per_class} of each score; skipped: {_told(skipped)})",
        words=known.words,
        encode=known.encode,
    )


def read_reviews(path: Path, within: Path | None = None) -> Reviews:
    """Read reviews from Kaggle's table, or from a file of texts with its labels beside it.

    * A table (any name but `texts.txt`): CSV in UTF-8 with a header; the columns `Score` and `Text` are needed,
      `UserId` is used where it is there, others are ignored. Quoted fields may hold line breaks.
    * `texts.txt` and `labels.txt` in the same folder: one text a line in UTF-8, and its score 1..5 on the same line of
      the other file.

    Each file is plain or gzip (told apart by its first bytes) and read row by row. Rows that cannot be used are left
    out and counted under the first of these reasons that holds: "unreadable row" (a field of more than 16,777,216
    characters), "wrong number of fields", "NUL byte" (in score or text), "missing score", "bad score" (not 1..5),
    "empty text" (no token), "not UTF-8". Blank lines of a table are no rows.

    Args:
        path: the table, or `texts.txt` or `texts.txt.gz`.
        within: folder of data sets; a link in it that leads out is refused.

    Returns:
        The usable rows and the counts of the others.

    Raises:
        UserError: the file cannot be read, is damaged, lacks a column or holds no usable row; or texts and labels
            differ in number.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "Reviews.csv"
        >>> _ = path.write_text('Id,Score,Text\\n1,5,"Good, really"\\n2,6,Odd\\n')
        >>> reviews = read_reviews(path)
        >>> reviews.texts, reviews.scores, reviews.skipped
        (['Good, really'], [5], {'bad score': 1})
    """
    texts: list[str] = []
    scores: list[int] = []
    users: list[str] = []
    skipped: Counter[str] = Counter()
    rows = _pairs(path, within) if path.name.startswith(_TEXTS) else _table(path, within)
    for row in rows:
        if isinstance(row, str):
            skipped[row] += 1
            continue
        score, text, user = row
        if (fault := _fault(score, text)) is not None:
            skipped[fault] += 1
            continue
        texts.append(text)
        scores.append(_SCORES[score.strip()])
        users.append(user.strip())
    if not texts:
        raise UserError(f"{path}: holds no usable review (skipped: {_told(skipped)}); {_hint(None)}")
    return Reviews(texts, scores, users, dict(sorted(skipped.items())), path)


def _hint(root: Path | None) -> str:
    place = f"{root}/{FOLDERS[0]}" if root else f"DIR/{FOLDERS[0]}, DIR being the data folder (--data-dir)"
    return f"get {_TABLE} from {ORIGIN} and put it in {place}"


def _find(data_dir: Path | None) -> tuple[Path, Path]:
    """Give the file to read, and the folder of data sets that it lies in."""
    if data_dir is None:
        raise UserError(f"the Amazon reviews need a data folder; {_hint(None)}")
    root = Path(os.path.abspath(data_dir.expanduser()))
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; {_hint(root)}")
    folders = [root, *(root / name for name in FOLDERS)]
    for name in (_TABLE, _TEXTS):
        for folder in folders:
            if (path := _file(folder, name)) is not None:
                return path, root
    for folder in folders:
        if _file(folder, _LABELS) is not None:
            raise UserError(f"{folder}: holds {_LABELS} without {_TEXTS}; put both there, or {_hint(root)}")
    raise UserError(
        f"{root}: holds no {_TABLE}, plain or .gz, and no {_TEXTS} with {_LABELS}, neither itself nor in "
        f"{', '.join(FOLDERS)}; {_hint(root)}"
    )


def _file(folder: Path, name: str) -> Path | None:
    return next((path for tail in ("", ".gz") if (path := folder / f"{name}{tail}").is_file()), None)


def _told(skipped: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()) if count) or "none"


def _checked(per_class: int | None, counts: dict[int, int], path: Path) -> int:
    """Give the number of texts taken of each class, once it is sure that every class has them."""
    rarest = min(range(_CLASSES), key=lambda label: counts.get(label, 0))
    most = counts.get(rarest, 0)
    if most < 2:
        raise UserError(
            f"{path}: holds {most} different texts of score {rarest + 1}, expected at least 2 of each score 1 to "
            f"{_CLASSES}, one to train and one to test; {_hint(None)}"
        )
    if per_class is not None and not 2 <= per_class <= most:
        raise UserError(
            f"per_class is {per_class}, allowed: 2 to {most}, the different texts of score {rarest + 1} in {path}"
        )
    return min(most, _PER_CLASS) if per_class is None else per_class


def _writers(users: list[str], rows: list[int]) -> torch.Tensor | None:
    if not all(users[row] for row in rows):
        return None
    numbers = {user: number for number, user in enumerate(sorted(set(users)))}
    return torch.tensor([numbers[users[row]] for row in rows])


def _fault(score: str, text: str) -> str | None:
    if "\0" in score or "\0" in text:
        return "NUL byte"
    if not score.strip():
        return "missing score"
    if score.strip() not in _SCORES:
        return "bad score"
    if _NO_TOKEN.fullmatch(text):
        return "empty text"
    return "not UTF-8" if _NOT_UTF8.search(text) else None


def _lines(path: Path, newline: str, within: Path | None) -> Iterator[str]:
    """Give the lines of a text, plain or gzip, in bounded pieces: without a line break a file is no table of texts."""
    with unpacked(path, _WHOLE, _hint(None), within) as content:
        stream = io.TextIOWrapper(content, "utf-8-sig", "surrogateescape", newline)
        while piece := stream.readline(_LONGEST):
            yield piece


def _table(path: Path, within: Path | None) -> Iterator[tuple[str, str, str] | str]:
    """Give score, text and user of each row, or the reason why it has none."""
    limit = csv.field_size_limit(_LONGEST)
    try:
        rows = csv.reader(_lines(path, "", within))
        try:
            header = [name.strip() for name in next(rows, [])]
        except csv.Error as error:
            raise UserError(f"{path}: its first line is not the header of a table ({error}); {_hint(None)}") from error
        missing = [name for name in _NEEDED if name not in header]
        if missing:
            found = repr(", ".join(header)[:80]) if header else "nothing"
            raise UserError(f"{path}: its first line lacks {' and '.join(missing)} (found: {found}); {_hint(None)}")
        columns = [header.index(name) for name in _NEEDED]
        user = header.index(_WRITER) if _WRITER in header else None
        for row in _unbroken(rows):
            if row is None:
                yield "unreadable row"
            elif len(row) == len(header):
                yield row[columns[0]], row[columns[1]], "" if user is None else row[user]
            elif row:
                yield "wrong number of fields"
    finally:
        csv.field_size_limit(limit)


def _unbroken(rows: Iterator[list[str]]) -> Iterator[list[str] | None]:
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield None


def _pairs(path: Path, within: Path | None) -> Iterator[tuple[str, str, str]]:
    """Give score, text and no user of each line of two files."""
    labels_path = _file(path.parent, _LABELS)
    if labels_path is None:
        raise UserError(f"{path.parent}: holds {path.name} without {_LABELS}, one score 1 to 5 a line; put both there")
    texts = scores = 0
    for text, score in zip_longest(_lines(path, "\n", within), _lines(labels_path, "\n", within)):
        texts += text is not None
        scores += score is not None
        if text is not None and score is not None:
            yield score, text.rstrip("\r\n"), ""
    if texts != scores:
        raise UserError(f"{path}: holds {texts} lines, but {labels_path} holds {scores}, expected as many")
