"""Amazon Fine Food Reviews: texts with scores from 1 to 5, read from CSV tables such as Kaggle's or from text files.

Source: J. McAuley, J. Leskovec, From amateurs to connoisseurs: modeling the evolution of user expertise through online
reviews, 2013 (SNAP web-FineFoods); Kaggle snap/amazon-fine-food-reviews.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from rflbat.data.base import Dataset
from rflbat.data.reviews import Reviews, counts, named, text_dataset, text_fault, usable
from rflbat.data.tables import Origin, Row, lines, plain_or_packed, table
from rflbat.data.text import distinct, split
from rflbat.errors import UserError

TABLES = "Reviews*.csv"
ORIGIN = Origin(
    title="the Amazon reviews",
    file="Reviews.csv",
    address="kaggle.com/datasets/snap/amazon-fine-food-reviews",
    folders=("amazon", "amazon_fine_food", "amazon_fine_food_extra"),
)

_TEXTS, _LABELS = "texts.txt", "labels.txt"
_CLASSES = 5
_SCORES = {f"{score}{tail}": score for score in range(1, _CLASSES + 1) for tail in ("", ".0")}
_PER_CLASS = 20_000  # as in the paper


def load(
    data_dir: Path | None = None,
    *,
    per_class: int | None = None,
    vocabulary: int = 56_785,
    tokens: int = 100,
    tokenizer: str = "basic_english",
    files: str = TABLES,
) -> Dataset:
    """Food reviews as texts of 100 tokens, 5 classes (scores), equally many of each; writers by UserId.

    Reviews as token ids, balanced over the classes score - 1.

    All tables ``Reviews*.csv``, plain or .gz, in ``data_dir`` and in its subfolders ``amazon``, ``amazon_fine_food``
    and ``amazon_fine_food_extra`` are read, in the order of these folders and then by name. If a folder holds both
    ``X.csv`` and ``X.csv.gz``, only the first is read. Without any such table, ``texts.txt`` and ``labels.txt``, plain
    or .gz, are read from the first of the folders that has them. ``read_reviews`` describes both formats.

    Texts that recur across products and files are counted once, with the score of their first row. Texts are compared
    by their lower-case letters and digits only (``rflbat.data.text.distinct``). ``per_class`` texts of each class are
    taken, and a fifth of them become test texts. The choice depends on a hash of the text: the same reviews give the
    same split in any order of rows, and no text is in both parts. The vocabulary is built from the training texts
    only. Each text is cut to its first ``tokens`` tokens or left-padded with zeros.

    The natural partition (one client per reviewer) needs the ``UserId`` of every training review. A single table
    without that column makes it unavailable; ``files="Reviews.csv"`` then reads Kaggle's table only.

    Files:
        any number of tables ``Reviews*.csv``, plain or .gz, in DIR, DIR/amazon, DIR/amazon_fine_food or
        DIR/amazon_fine_food_extra, from kaggle.com/datasets/snap/amazon-fine-food-reviews; or ``texts.txt`` and
        ``labels.txt``, one text and one score 1..5 a line. Needs ``rflbat[text]``.

    Args:
        data_dir: folder of data sets.
        per_class: texts per class, training and test together, at least 2; None takes as many as the rarest class
            has, up to the paper's 20,000.
        vocabulary: maximum number of words, including ``<pad>`` = 0 and ``<unk>`` = 1; at least 3.
        tokens: length of a sample, at least 1.
        tokenizer: "basic_english", or "torchtext" if it is installed and can be imported.
        files: pattern of the table names to read, without .gz; ``*`` matches any characters.

    Returns:
        training and test samples (tokens,) int32. If every training review has a UserId, the writers are positions in
        the sorted list of all UserIds read.

    Raises:
        UserError: files are missing, damaged or hold too few usable reviews; an argument is out of range; or the extra
            ``rflbat[text]`` is not installed.

    Example:
        >>> load(Path("no-such-folder"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        rflbat.errors.UserError: ...no-such-folder: there is no such folder; get Reviews.csv from kaggle.com/...
    """
    root = ORIGIN.root(data_dir)
    paths = _find(root, files)
    reviews = _joined([read_reviews(path, root) for path in paths])
    firsts = distinct(reviews.texts)
    place = named(paths)
    per_class = _checked(per_class, Counter(reviews.labels[position] for position in firsts.values()), place)
    train, test = split(firsts, reviews.labels, per_class)
    skipped = {**reviews.skipped, "repeated text": len(reviews.texts) - len(firsts)}
    return text_dataset(
        "amazon",
        _CLASSES,
        reviews,
        train,
        test,
        vocabulary=vocabulary,
        tokens=tokens,
        tokenizer=tokenizer,
        source=f"{place} ({per_class} of each score; skipped: {counts(skipped)})",
    )


def read_reviews(path: Path, within: Path | None = None) -> Reviews:
    """Read reviews from a table, or from a text file with a label file next to it.

    * A table (any name but ``texts.txt``): CSV in UTF-8 with a header. The columns ``Score`` and ``Text`` are required,
      ``UserId`` is read if present, and other columns are ignored. Quoted fields may contain line breaks.
    * ``texts.txt`` and ``labels.txt`` in the same folder: one text per line in UTF-8, and its score 1..5 on the same
      line of the other file.

    Files may be plain or gzip (detected by their first bytes) and are read row by row. Unusable rows are skipped and
    counted under the first reason that applies: "unreadable row" (a field of more than 16,777,216 characters), "wrong
    number of fields", "NUL byte" (in score or text), "missing score", "bad score" (not 1..5), "empty text" (no token),
    "not UTF-8". Blank lines of a table are ignored.

    Args:
        path: the table, or ``texts.txt`` or ``texts.txt.gz``.
        within: folder of data sets; a link inside it that leads out is refused.

    Returns:
        the usable rows with label = score - 1 and writer = UserId, and the counts of skipped rows.

    Raises:
        UserError: the file cannot be read, is damaged, lacks a column or holds no usable row; or the numbers of texts
            and labels differ.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "Reviews.csv"
        >>> _ = path.write_text('Id,Score,Text\\n1,5,"Good, really"\\n2,6,Odd\\n')
        >>> reviews = read_reviews(path)
        >>> reviews.texts, reviews.labels, reviews.skipped
        (['Good, really'], [4], {'bad score': 1})
    """
    hint = ORIGIN.hint()
    is_text = path.name.startswith(_TEXTS)
    rows = _pairs(path, within) if is_text else table(path, ("Score", "Text"), ("UserId",), hint, within)
    kept, skipped = usable(rows, _fault, path, hint)
    return Reviews(
        texts=[text for _, text, _ in kept],
        labels=[_SCORES[score.strip()] - 1 for score, _, _ in kept],
        writers=[user.strip() for _, _, user in kept],
        skipped=skipped,
    )


def _joined(parts: list[Reviews]) -> Reviews:
    skipped: Counter[str] = Counter()
    for part in parts:
        skipped.update(part.skipped)
    return Reviews(
        texts=[text for part in parts for text in part.texts],
        labels=[label for part in parts for label in part.labels],
        writers=[writer for part in parts for writer in part.writers],
        skipped=dict(skipped),
    )


def _find(root: Path, files: str) -> list[Path]:
    """List the tables to read; with the default pattern and no table, return the text file instead."""
    if paths := ORIGIN.tables(root, files):
        return paths
    folders = ORIGIN.places(root)
    if files == TABLES:
        for folder in folders:
            if (path := plain_or_packed(folder, _TEXTS)) is not None:
                return [path]
        for folder in folders:
            if plain_or_packed(folder, _LABELS) is not None:
                raise UserError(f"{folder}: holds {_LABELS} but no {_TEXTS}; put both there, or {ORIGIN.hint(root)}")
    texts = f" and no {_TEXTS} with {_LABELS}," if files == TABLES else ""
    raise UserError(
        f"{root}: holds no {files}, plain or .gz,{texts} neither directly nor in {', '.join(ORIGIN.folders)}; "
        f"{ORIGIN.hint(root)}"
    )


def _checked(per_class: int | None, numbers: dict[int, int], place: str) -> int:
    """Check ``per_class`` against the number of distinct texts of each class, and resolve None."""
    rarest = min(range(_CLASSES), key=lambda label: numbers.get(label, 0))
    most = numbers.get(rarest, 0)
    if most < 2:
        raise UserError(
            f"{place}: holds {most} distinct texts of score {rarest + 1}, expected at least 2 of each score 1 to "
            f"{_CLASSES}, one to train and one to test; {ORIGIN.hint()}"
        )
    if per_class is not None and not 2 <= per_class <= most:
        raise UserError(
            f"per_class is {per_class}; allowed: 2 to {most}, the distinct texts of score {rarest + 1} in {place}"
        )
    return min(most, _PER_CLASS) if per_class is None else per_class


def _fault(row: Row) -> str | None:
    score, text, _ = row
    if "\0" in score or "\0" in text:
        return "NUL byte"
    if not score.strip():
        return "missing score"
    return text_fault(text) if score.strip() in _SCORES else "bad score"


def _pairs(path: Path, within: Path | None) -> Iterator[Row]:
    """Yield (score, text, "") for each pair of lines of the two files."""
    labels_path = plain_or_packed(path.parent, _LABELS)
    if labels_path is None:
        raise UserError(f"{path.parent}: holds {path.name} but no {_LABELS} (one score 1 to 5 per line); add it")
    texts = scores = 0
    hint = ORIGIN.hint()
    for text, score in zip_longest(lines(path, "\n", hint, within), lines(labels_path, "\n", hint, within)):
        texts += text is not None
        scores += score is not None
        if text is not None and score is not None:
            yield score, text.rstrip("\r\n"), ""
    if texts != scores:
        raise UserError(f"{path}: holds {texts} lines, but {labels_path} holds {scores}; expected the same number")
