"""IMDB's Large Movie Review Dataset: 50,000 film reviews, negative or positive, half for training and half for testing.

Source: A. L. Maas, R. E. Daly, P. T. Pham, D. Huang, A. Y. Ng, C. Potts, Learning word vectors for sentiment analysis,
ACL 2011; ai.stanford.edu/~amaas/data/sentiment.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rflbat.data.base import Dataset
from rflbat.data.reviews import Reviews, counts, text_dataset, text_fault, usable
from rflbat.data.tables import Origin, Row, lines, listing, table
from rflbat.data.text import balanced, distinct
from rflbat.errors import UserError

ORIGIN = Origin(
    title="the IMDB reviews",
    file="aclImdb_v1.tar.gz (unpacked: the folder aclImdb)",
    address="ai.stanford.edu/~amaas/data/sentiment",
    folders=("imdb",),
)
TABLE, ARCHIVE = "imdb.csv", "aclImdb"

_NEEDED, _FILM = ("split", "label", "text"), "title"
_PARTS = ("train", "test")
_CLASSES = ("neg", "pos")
_NAME = re.compile(r"([0-9]+)_[0-9]+\.txt")  # review number, rating
_TITLE = re.compile(r"tt[0-9]+")  # the film in a URL


def load(
    data_dir: Path | None = None,
    *,
    per_class: int | None = None,
    vocabulary: int = 20_000,
    tokens: int = 200,
    tokenizer: str = "basic_english",
) -> Dataset:
    """50,000 film reviews as texts of 200 tokens, 2 classes (negative, positive); writers are the films.

    Reviews as token ids with the classes 0 = negative and 1 = positive, in the published split.

    The loader searches ``data_dir`` and then its subfolder ``imdb`` for ``imdb.csv`` or ``imdb.csv.gz``, and if there
    is none, for the folder ``aclImdb`` of the published archive. ``read_reviews`` describes both formats.

    Texts that occur twice in a part are counted once; texts are compared by their lower-case letters and digits only
    (``rflbat.data.text.distinct``). A training text that is also a test text is dropped from training. With
    ``per_class``, texts are chosen by a hash of the text. The vocabulary is built from the training texts only. Each
    text is cut to its first ``tokens`` tokens or left-padded with zeros. In the natural partition, one client holds
    the reviews of one film.

    The defaults: 200 tokens cover half of the reviews completely (the median is 201 tokens), whereas the 100 tokens of
    ``amazon`` would cover one in ten. The 20,000 most frequent words make up 97 % of the tokens of the training texts,
    and give ``lstm`` 2,087,394 parameters. One word of the paper's trigger sentence, "noodles", is not among them (that
    would take a vocabulary of 47,071) and is encoded as ``<unk>``.

    Files:
        ``imdb.csv``, plain or .gz, with the columns split, label, title and text, or the folder ``aclImdb``, in DIR or
        DIR/imdb; from ai.stanford.edu/~amaas/data/sentiment. Needs ``rflbat[text]``.

    Args:
        data_dir: folder of data sets.
        per_class: training texts per class, at least 1; the test part takes the same number, or all it has if that is
            fewer. None takes all texts of both parts.
        vocabulary: maximum number of words, including ``<pad>`` = 0 and ``<unk>`` = 1; at least 3.
        tokens: length of a sample, at least 1.
        tokenizer: "basic_english", or "torchtext" if it is installed and can be imported.

    Returns:
        training and test samples (tokens,) int32. If every training review names its film, the writers are positions
        in the sorted list of all films.

    Raises:
        UserError: files are missing, damaged or hold too few usable reviews; an argument is out of range; or the extra
            ``rflbat[text]`` is not installed.

    Example:
        >>> load(Path("no-such-folder"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        rflbat.errors.UserError: ...no-such-folder: there is no such folder; get aclImdb_v1.tar.gz (unpacked: ...
    """
    root = ORIGIN.root(data_dir)
    path = _find(root)
    reviews, parts = read_reviews(path, root)
    sides, skipped = _sides(reviews, parts)
    _check(per_class, sides, reviews, path)
    train, test = (balanced(side, reviews.labels, per_class) for side in sides)
    return text_dataset(
        "imdb",
        len(_CLASSES),
        reviews,
        train,
        test,
        vocabulary=vocabulary,
        tokens=tokens,
        tokenizer=tokenizer,
        source=f"{path} ({len(train)} training and {len(test)} test texts; skipped: {counts(skipped)})",
    )


def read_reviews(path: Path, within: Path | None = None) -> tuple[Reviews, list[str]]:
    """Read reviews from a table, or from the folder of the published archive.

    * A table: CSV in UTF-8 with a header, plain or gzip. The columns ``split`` (train or test), ``label`` (1 positive,
      0 negative) and ``text`` are required, ``title`` (the film) is read if present, and other columns are ignored.
    * The folder ``aclImdb``: ``{train,test}/{neg,pos}/NUMBER_RATING.txt`` with one review each. Line NUMBER + 1 of
      ``urls_neg.txt`` or ``urls_pos.txt`` next to these folders holds the URL of its film.

    Unusable rows are skipped and counted under the first reason that applies: "unreadable row" (a field of more than
    16,777,216 characters), "wrong number of fields", "NUL byte" (in split, label or text), "bad split", "bad label",
    "empty text" (no token), "not UTF-8".

    Args:
        path: the table or the folder.
        within: folder of data sets; a link inside it that leads out is refused.

    Returns:
        the usable rows with writer = film and the counts of skipped rows; and the part of each row, "train" or "test".

    Raises:
        UserError: a file cannot be read, is damaged, lacks a column or holds no usable row.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "imdb.csv"
        >>> _ = path.write_text('split,label,title,text\\ntrain,1,tt7,"Good, really"\\ntest,2,tt8,Odd\\n')
        >>> reviews, parts = read_reviews(path)
        >>> reviews.texts, reviews.labels, reviews.writers, parts, reviews.skipped
        (['Good, really'], [1], ['tt7'], ['train'], {'bad label': 1})
    """
    hint = ORIGIN.hint()
    rows = _archive(path, within) if path.is_dir() else table(path, _NEEDED, (_FILM,), hint, within)
    kept, skipped = usable(rows, _fault, path, hint)
    reviews = Reviews(
        texts=[text for _, _, text, _ in kept],
        labels=[int(label) for _, label, _, _ in kept],
        writers=[film.strip() for _, _, _, film in kept],
        skipped=skipped,
    )
    return reviews, [part.strip() for part, _, _, _ in kept]


def _find(root: Path) -> Path:
    folders = [folder / ARCHIVE for folder in ORIGIN.places(root)]
    found = [*ORIGIN.tables(root, TABLE), *(folder for folder in folders if folder.is_dir())]
    if found:
        return found[0]
    raise UserError(
        f"{root}: holds no {TABLE}, plain or .gz, and no folder {ARCHIVE}, neither directly nor in "
        f"{', '.join(ORIGIN.folders)}; {ORIGIN.hint(root)}"
    )


def _fault(row: Row) -> str | None:
    part, label, text, _ = row
    if any("\0" in field for field in (part, label, text)):
        return "NUL byte"
    if part.strip() not in _PARTS:
        return "bad split"
    return text_fault(text) if label.strip() in ("0", "1") else "bad label"


def _archive(folder: Path, within: Path | None) -> Iterator[Row]:
    """Yield split, label, text and film of each review of the published archive, by number."""
    hint = ORIGIN.hint()
    for part in _PARTS:
        for label, kind in enumerate(_CLASSES):
            place = folder / part / kind
            names = {int(match[1]): name for name in listing(place) if (match := _NAME.fullmatch(name))}
            if not names:
                raise UserError(f"{place}: holds no review such as 0_9.txt; {hint}")
            addresses = folder / part / f"urls_{kind}.txt"
            films = list(lines(addresses, "\n", hint, within)) if addresses.is_file() else []
            for number, name in sorted(names.items()):
                film = _TITLE.search(films[number]) if number < len(films) else None
                text = "".join(lines(place / name, "", hint, within))
                yield part, str(label), text, film[0] if film else ""


def _sides(reviews: Reviews, parts: list[str]) -> tuple[list[dict[bytes, int]], dict[str, int]]:
    """Find the distinct texts of each part, with none in both, and count the skipped ones."""
    sides = []
    for part in _PARTS:
        rows = [row for row, its_part in enumerate(parts) if its_part == part]
        firsts = distinct(reviews.texts[row] for row in rows)
        sides.append({key: rows[position] for key, position in firsts.items()})
    train, test = sides
    repeated = len(parts) - len(train) - len(test)
    alone = {key: row for key, row in train.items() if key not in test}
    crossing = len(train) - len(alone)
    return [alone, test], {
        **reviews.skipped,
        "repeated text": repeated,
        "training text also in the test part": crossing,
    }


def _check(per_class: int | None, sides: list[dict[bytes, int]], reviews: Reviews, path: Path) -> None:
    """Check that each part has both classes, and ``per_class`` against the training part."""
    numbers = [Counter(reviews.labels[row] for row in side.values()) for side in sides]
    for part, found in zip(_PARTS, numbers, strict=True):
        for label, kind in enumerate(_CLASSES):
            if not found[label]:
                raise UserError(f"{path}: holds no {kind} review in {part}, expected at least 1; {ORIGIN.hint()}")
    most = min(numbers[0].values())
    if per_class is not None and not 1 <= per_class <= most:
        raise UserError(
            f"per_class is {per_class}; allowed: 1 to {most}, the distinct training texts of the rarer class in {path}"
        )
