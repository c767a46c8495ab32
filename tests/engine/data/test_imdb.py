"""The film reviews on the real file where RFLBAT_DATA_DIR names it; both forms and their faults on made-up files."""

import csv
import gzip
import io
import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from rflbat.data.imdb import load, read_reviews
from rflbat.data.text import distinct
from rflbat.errors import UserError

pytest.importorskip("tokenizers", reason="tokens need the package tokenizers: pip install 'rflbat[text]'")

HEADER = ("split", "label", "id", "rating", "title", "text")
HEAD = b"split,label,text\n"
ADVICE = (
    "get aclImdb_v1.tar.gz (unpacked: the folder aclImdb) from ai.stanford.edu/~amaas/data/sentiment and put it in "
)
Row = tuple[object, ...]


def rows_of(count: int = 6) -> list[Row]:
    """Made-up reviews, every text another: as many of each class and part."""
    kinds = [(part, label) for part in ("train", "test") for label in (0, 1)]
    return [
        (part, label, n, 3 + 5 * label, f"tt{n % 3}{label}", f"Mark{label}, {part} {n}x!" + " good" * n)
        for part, label in kinds
        for n in range(count)
    ]


def write(path: Path, rows: list[Row], header: tuple[str, ...] = HEADER) -> Path:
    lines = io.StringIO(newline="")
    csv.writer(lines).writerows([header, *rows])
    return put(path, lines.getvalue().encode())


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_table(folder: Path) -> None:
    write(folder / "imdb.csv.gz", rows_of())


def write_archive(folder: Path) -> None:
    """The folder of the published archive, with the same reviews."""
    films: dict[Path, list[str]] = {}
    for part, label, number, rating, film, text in rows_of():
        kind = ("neg", "pos")[int(str(label))]
        put(folder / f"aclImdb/{part}/{kind}/{number}_{rating}.txt", str(text).encode())
        addresses = films.setdefault(folder / f"aclImdb/{part}/urls_{kind}.txt", [])
        addresses.append(f"http://www.imdb.com/title/{film}/usercomments\n")
    for path, addresses in films.items():
        put(path, "".join(addresses).encode())


def error_of(path: Path | None, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        load(path, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The real file.


def test_real_reviews_are_what_they_are_known_to_be() -> None:
    named = os.environ.get("RFLBAT_DATA_DIR")
    path = Path(named or "", "imdb/imdb.csv.gz")
    if not named or not path.is_file():
        pytest.skip("RFLBAT_DATA_DIR names no folder that holds imdb/imdb.csv.gz")
    reviews, parts = read_reviews(path)
    kinds = Counter(zip(parts, reviews.labels, strict=True))
    assert kinds == {(part, label): 12_500 for part in ("train", "test") for label in (0, 1)}
    assert reviews.skipped == {}
    train, test = (
        distinct(text for text, part in zip(reviews.texts, parts, strict=True) if part == side)
        for side in ("train", "test")
    )
    assert (len(train), len(test), len(train.keys() & test.keys())) == (24_901, 24_797, 123)
    dataset = load(Path(named))
    assert torch.bincount(dataset.train_y).tolist() == [12_336, 12_442]
    assert torch.bincount(dataset.test_y).tolist() == [12_358, 12_439]
    assert dataset.source.endswith("skipped: 302 repeated text, 123 training text also in the test part)")
    assert dataset.words is not None
    assert len(dataset.words) == 20_000
    assert dataset.train_writers is not None
    assert len(dataset.train_writers.unique()) == 3421
    # A short text is there whole: the same on both sides would be a leak.
    sides = [{tuple(row) for row in x.tolist() if row[0] == 0} for x in (dataset.train_x, dataset.test_x)]
    assert min(map(len, sides)) > 10_000
    assert not {row for row in sides[0] & sides[1] if 1 not in row}


# Reviews are made up from here on.


def test_fields_of_the_data_set(tmp_path: Path) -> None:
    path = write(tmp_path / "imdb.csv", rows_of())
    dataset = load(tmp_path)
    assert (dataset.name, dataset.model) == ("imdb", "lstm")
    assert (dataset.classes, dataset.shape) == (2, (200,))
    assert dataset.train_x.shape == dataset.test_x.shape == (12, 200)
    assert torch.bincount(dataset.train_y).tolist() == torch.bincount(dataset.test_y).tolist() == [6, 6]
    assert dataset.source == f"{path} (12 training and 12 test texts; skipped: none)"


def test_the_parts_are_those_of_the_file_with_label_and_film(tmp_path: Path) -> None:
    write(tmp_path / "imdb.csv", rows_of())
    dataset = load(tmp_path, tokens=4)
    assert dataset.words is not None
    assert dataset.train_writers is not None
    assert "train" in dataset.words
    assert "test" not in dataset.words
    words = [[dataset.words[token] for token in row] for row in dataset.train_x.tolist()]
    assert [row[:3] for row in words] == [[f"mark{label}", ",", "train"] for label in dataset.train_y.tolist()]
    films = [f"tt{int(row[3][:-1]) % 3}{label}" for row, label in zip(words, dataset.train_y.tolist(), strict=True)]
    known = sorted({str(row[4]) for row in rows_of()})
    assert [known[writer] for writer in dataset.train_writers.tolist()] == films
    assert [dataset.words[row[0]] for row in dataset.test_x.tolist()] == [f"mark{y}" for y in dataset.test_y.tolist()]


def test_repeated_texts_count_once_and_test_texts_are_not_trained_on(tmp_path: Path) -> None:
    rows = rows_of()
    again = [("train", 0, 9, 1, "tt9", str(rows[0][5]).upper()), ("test", 1, 9, 9, "tt9", f"{rows[-1][5]}...")]
    crossing = ("train", 1, 9, 9, "tt9", str(rows[12][5]).replace("!", "<br /><br />"))
    write(tmp_path / "imdb.csv", [*rows, *again, crossing])
    dataset = load(tmp_path)
    assert torch.bincount(dataset.train_y).tolist() == torch.bincount(dataset.test_y).tolist() == [6, 6]
    assert dataset.source.endswith("skipped: 2 repeated text, 1 training text also in the test part)")


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    rows = rows_of()
    first = load(write(tmp_path / "a/imdb.csv", rows).parent, per_class=4)
    second = load(write(tmp_path / "b/imdb.csv", rows[::-1]).parent, per_class=4)
    for name in ("train_x", "train_y", "test_x", "test_y", "train_writers"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_per_class_is_of_the_training_part_and_most_of_the_test_part(tmp_path: Path) -> None:
    path = write(tmp_path / "imdb.csv", [row for row in rows_of() if row[0] == "train" or int(str(row[2])) < 3])
    dataset = load(tmp_path, per_class=4)
    assert torch.bincount(dataset.train_y).tolist() == [4, 4]
    assert torch.bincount(dataset.test_y).tolist() == [3, 3]
    for per_class in (0, -1, 7):
        assert error_of(tmp_path, per_class=per_class) == (
            f"per_class is {per_class}; allowed: 1 to 6, the distinct training texts of the rarer class in {path}"
        )


def test_no_writers_where_a_film_is_unknown(tmp_path: Path) -> None:
    rows = rows_of()
    write(tmp_path / "a/imdb.csv", [*rows, ("train", 1, 9, 9, "", "another")])
    assert load(tmp_path / "a").train_writers is None
    write(tmp_path / "b/imdb.csv", [(*row[:2], row[5]) for row in rows], ("split", "label", "text"))
    assert load(tmp_path / "b").train_writers is None


# Where the files are looked for.


@pytest.mark.parametrize("place", ["imdb.csv", "imdb.csv.gz", "imdb/imdb.csv", "imdb/imdb.csv.gz"])
def test_a_table_is_found_in_each_place_before_the_archive(tmp_path: Path, place: str) -> None:
    write_archive(tmp_path)
    path = write(tmp_path / place, rows_of())
    assert load(tmp_path).source.startswith(f"{path} (")


@pytest.mark.parametrize("place", ["", "imdb"])
def test_the_archive_holds_the_same_as_the_table(tmp_path: Path, place: str) -> None:
    write_archive(tmp_path / place)
    put(tmp_path / place / "aclImdb/train/neg/README.txt", b"no review")
    archive, table = load(tmp_path), load(write(tmp_path / "table/imdb.csv", rows_of()).parent)
    assert archive.source.startswith(str(tmp_path / place / "aclImdb"))
    for name in ("train_x", "train_y", "test_x", "test_y", "train_writers"):
        assert torch.equal(getattr(archive, name), getattr(table, name))
    (tmp_path / place / "aclImdb/train/urls_pos.txt").write_text("one line\n")
    assert load(tmp_path).train_writers is None


def test_a_part_of_the_archive_that_is_missing_is_named(tmp_path: Path) -> None:
    write_archive(tmp_path)
    folder = tmp_path / "aclImdb/test/pos"
    for path in folder.iterdir():
        path.unlink()
    hint = f"{ADVICE}DIR/imdb, where DIR is the data folder (--data-dir)"
    assert error_of(tmp_path) == f"{folder}: holds no review such as 0_9.txt; {hint}"
    folder.rmdir()
    assert error_of(tmp_path).startswith(f"{folder}: holds no review")


def test_a_missing_file_says_what_to_put_where(tmp_path: Path) -> None:
    assert error_of(None).startswith(f"the IMDB reviews need a data folder; {ADVICE}DIR/imdb, ")
    assert error_of(tmp_path) == (
        f"{tmp_path}: holds no imdb.csv, plain or .gz, and no folder aclImdb, neither directly nor in imdb; "
        f"{ADVICE}{tmp_path}/imdb"
    )
    assert error_of(tmp_path / "x").startswith(f"{tmp_path / 'x'}: there is no such folder; {ADVICE}")


# Rows and files that cannot be used.


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"train,1", "wrong number of fields"),
        (b"train,1,text,more", "wrong number of fields"),
        (b"unsup,1,text", "bad split"),
        (b",1,text", "bad split"),
        (b"train,,text", "bad label"),
        (b"train,2,text", "bad label"),
        (b"train,pos,text", "bad label"),
        (b'train,1," <br /> "', "empty text"),
        (b"train,1,te\0xt", "NUL byte"),
        (b"tra\0in,1,text", "NUL byte"),
        (b"train,1,caf\xe9", "not UTF-8"),
    ],
)
def test_a_row_that_cannot_be_used_is_counted_and_left_out(tmp_path: Path, row: bytes, reason: str) -> None:
    path = put(tmp_path / "imdb.csv", HEAD + b"train,1,first\n" + row + b"\n test , 0 ,third\n" + row + b"\n")
    reviews, parts = read_reviews(path)
    assert (reviews.texts, reviews.labels, parts) == (["first", "third"], [1, 0], ["train", "test"])
    assert reviews.skipped == {reason: 2}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "its first line lacks split and label and text (found: nothing)"),
        (b"review,sentiment\nx,positive\n", "lacks split and label and text (found: 'review, sentiment')"),
        (HEAD, "holds no usable review (skipped: none)"),
        (HEAD + b"train,1,a\ntrain,0,b\ntest,1,c\n", "holds no neg review in test, expected at least 1"),
        (HEAD + b"train,1,a\ntest,0,b\ntest,1,a\n", "holds no neg review in train, expected at least 1"),
    ],
)
def test_a_file_without_reviews_says_what_it_lacks(tmp_path: Path, content: bytes, what: str) -> None:
    path = put(tmp_path / "imdb.csv", content)
    message = error_of(tmp_path)
    assert message.startswith(f"{path}: ")
    assert what in message
    assert ADVICE in message


@pytest.mark.parametrize("cut", [4, 11, -5])
def test_a_file_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "imdb.csv.gz", rows_of())
    path.write_bytes(path.read_bytes()[:cut])
    assert error_of(tmp_path).startswith(f"{path}: its gzip data is damaged or cut short (")


def test_options_have_ranges(tmp_path: Path) -> None:
    write(tmp_path / "imdb.csv", rows_of())
    assert error_of(tmp_path, tokens=0) == "tokens is 0; allowed: at least 1"
    assert error_of(tmp_path, tokens=-3) == "tokens is -3; allowed: at least 1"
    assert error_of(tmp_path, vocabulary=2).startswith("vocabulary is 2; allowed: at least 3")
    assert error_of(tmp_path, tokenizer="bpe") == "unknown tokenizer 'bpe'; known: basic_english, torchtext"
