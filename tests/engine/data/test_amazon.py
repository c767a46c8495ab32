"""The reviews on the real file where RFLBAT_DATA_DIR names it; every form and every fault on small made-up files."""

import csv
import gzip
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rflbat.data.amazon import ORIGIN, TABLES, load, read_reviews
from rflbat.data.base import as_inputs
from rflbat.data.partition import partition
from rflbat.data.text import basic_english, distinct
from rflbat.errors import UserError

pytest.importorskip("tokenizers", reason="tokens need the package tokenizers: pip install 'rflbat[text]'")

HEADER = ("Id", "UserId", "Score", "Summary", "Text")
ADVICE = "get Reviews.csv from kaggle.com/datasets/snap/amazon-fine-food-reviews and put it in "
Row = Sequence[object]


def rows_of(per_score: Sequence[int] = (10, 11, 12, 13, 14)) -> list[Row]:
    """Made-up reviews, every text another; a word for each score and a number of words that grows."""
    rows: list[Row] = []
    for score, count in enumerate(per_score, 1):
        for n in range(count):
            text = f"Mark{score}, number {score}x{n}!" + " good" * n
            rows.append((len(rows), f"U{n % 4}", score, "", text))
    return rows


def write(path: Path, rows: Sequence[Row], header: Sequence[str] = HEADER, *, packed: bool = False) -> Path:
    lines = io.StringIO(newline="")
    csv.writer(lines).writerows([header, *rows])
    return put(path, lines.getvalue().encode("utf-8", "surrogateescape"), packed=packed)


def put(path: Path, content: bytes, *, packed: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def error_of(path: Path | None, **options: object) -> str:
    limit = csv.field_size_limit()
    with pytest.raises(UserError) as caught:
        load(path, **options)  # type: ignore[arg-type]
    assert csv.field_size_limit() == limit
    message = str(caught.value)
    assert "\n" not in message
    return message


# The real file.


@pytest.fixture(scope="module")
def data_dir() -> Path:
    named = os.environ.get("RFLBAT_DATA_DIR")
    if not named:
        pytest.skip("RFLBAT_DATA_DIR is unset: it names the folder that holds amazon_fine_food/")
    return Path(named)


def test_real_reviews_are_what_they_are_known_to_be(data_dir: Path) -> None:
    reviews = read_reviews(data_dir / "amazon_fine_food/Reviews.csv.gz")
    assert len(reviews.texts) == len(reviews.writers) == 14976
    assert [count for _, count in sorted(Counter(reviews.labels).items())] == [1344, 839, 1147, 2180, 9466]
    assert len(set(reviews.writers)) == 13269
    assert reviews.skipped == {}


def test_real_reviews_of_all_files_are_balanced_and_no_text_leaks(data_dir: Path) -> None:
    if not (data_dir / "amazon_fine_food_extra").is_dir():
        pytest.skip(f"{data_dir} holds no amazon_fine_food_extra/")
    parts = [read_reviews(path) for path in ORIGIN.tables(data_dir, TABLES)]
    texts = [text for part in parts for text in part.texts]
    labels = [label for part in parts for label in part.labels]
    counts = Counter(labels[position] for position in distinct(texts).values())
    assert [count for _, count in sorted(counts.items())] == [4253, 4520, 5314, 6275, 13680]
    dataset = load(data_dir)
    assert torch.bincount(dataset.train_y).tolist() == [3403] * 5
    assert torch.bincount(dataset.test_y).tolist() == [850] * 5
    assert dataset.train_x.shape == (17015, 100)
    assert "4253 of each score; skipped: 719 repeated text" in dataset.source
    assert dataset.train_writers is None
    assert dataset.words is not None
    assert dataset.encode is not None
    assert 10_000 < len(dataset.words) < 56_785
    assert dataset.words[:4] == ("<pad>", "<unk>", ".", "the")
    # Different texts may share their first 100 ids, so a row can belong to several scores.
    known: dict[tuple[int, ...], set[int]] = {}
    whole = [dataset.encode(text) for text in texts]
    for ids, label in zip(whole, labels, strict=True):
        known.setdefault(tuple([0] * (100 - len(ids)) + ids[:100]), set()).add(label)
    for x, y in ((dataset.train_x, dataset.train_y), (dataset.test_x, dataset.test_y)):
        assert all(label in known[tuple(row)] for row, label in zip(x.tolist(), y.tolist(), strict=True))
    # A short text is there whole: the same on both sides would be a leak.
    train, test = ({tuple(row) for row in x.tolist() if row[0] == 0} for x in (dataset.train_x, dataset.test_x))
    familiar = {row for row in test if 1 not in row}
    assert len(familiar) > 100
    assert not familiar & train


def test_real_reviews_of_one_file_have_writers_and_the_same_bytes_each_time(data_dir: Path) -> None:
    first = load(data_dir, files="Reviews.csv")
    second = load(data_dir / "amazon_fine_food", files="Reviews.csv")
    for name in ("train_x", "train_y", "test_x", "test_y", "train_writers"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert first.words == second.words
    assert "787 of each score" in first.source
    assert first.train_writers is not None
    parts = partition("natural", first.train_y.numpy(), 100, 1.0, np.random.default_rng(0), first.train_writers)
    assert len(parts) == 100


# Content of a data set. Reviews below are synthetic.


def test_fields_of_the_data_set(tmp_path: Path) -> None:
    dataset = load(write(tmp_path / "Reviews.csv", rows_of()).parent)
    assert (dataset.name, dataset.model) == ("amazon", "lstm")
    assert (dataset.classes, dataset.shape) == (5, (100,))
    assert (dataset.low, dataset.high, dataset.scale) == (0.0, 0.0, 1.0)
    assert dataset.train_x.dtype == torch.int32
    assert dataset.train_y.dtype == torch.int64
    assert as_inputs(dataset.train_x, dataset).dtype == torch.int64
    assert torch.bincount(dataset.train_y).tolist() == [8] * 5
    assert torch.bincount(dataset.test_y).tolist() == [2] * 5
    assert dataset.source == f"{tmp_path / 'Reviews.csv'} (10 of each score; skipped: none)"


def test_samples_are_the_encoded_texts_cut_and_padded_in_front(tmp_path: Path) -> None:
    rows = rows_of()
    dataset = load(write(tmp_path / "Reviews.csv", rows).parent, tokens=9)
    assert dataset.encode is not None
    assert dataset.words is not None
    texts = {tuple(dataset.encode(str(row[4]))): row for row in rows if row[2] != 1}
    for x, label in zip(dataset.train_x.tolist(), dataset.train_y.tolist(), strict=True):
        ids = [token for token in x if token]
        assert x == [0] * (9 - len(ids)) + ids
        assert label == 0 or any(whole[:9] == tuple(ids) and row[2] == label + 1 for whole, row in texts.items())
        assert dataset.words[ids[0]] == f"mark{label + 1}"
    assert any(len(whole) > 9 for whole in texts)
    assert 0 in dataset.train_x


def test_words_come_from_whole_training_texts_alone(tmp_path: Path) -> None:
    rows = rows_of()
    dataset = load(write(tmp_path / "Reviews.csv", rows).parent, tokens=4)
    assert dataset.words is not None
    assert dataset.encode is not None
    tokenize = basic_english()
    # The fourth token tells a text: "mark3 , number 3x7".
    numbers = {dataset.words[token] for token in dataset.train_x[:, 3].tolist()}
    assert len(numbers) == 40
    counts = Counter(w for row in rows if (words := tokenize(str(row[4])))[3] in numbers for w in words)
    assert dataset.words[2:] == tuple(sorted(counts, key=lambda word: (-counts[word], word)))
    assert dataset.test_x[:, 3].tolist() == [1] * 10
    assert load(tmp_path, vocabulary=5).words == dataset.words[:5]


def test_a_text_of_several_rows_counts_once_with_its_first_score(tmp_path: Path) -> None:
    rows = rows_of((5, 5, 5, 5, 5))
    again = [(0, "V", 2, "", str(row[4]).upper().replace(" ", "  ")) for row in rows if row[2] == 1]
    dataset = load(write(tmp_path / "Reviews.csv", [*rows, *again, *rows]).parent)
    assert "(5 of each score; skipped: 30 repeated text)" in dataset.source


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    rows = rows_of()
    first = load(write(tmp_path / "a/Reviews.csv", rows).parent)
    second = load(write(tmp_path / "b/Reviews.csv", rows[::-1]).parent)
    for name in ("train_x", "train_y", "test_x", "test_y", "train_writers"):
        assert torch.equal(getattr(first, name), getattr(second, name))


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abcdefghij"), st.integers(1, 5)), max_size=40))
def test_no_text_stands_on_both_sides(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int]]) -> None:
    certain = [(f"{letter}{score}", score) for score in range(1, 6) for letter in "xyz"]
    path = tmp_path_factory.mktemp("rows") / "Reviews.csv"
    write(path, [(score, text) for text, score in (*rows, *certain)], ("Score", "Text"))
    dataset = load(path.parent)
    assert dataset.words is not None
    train = [dataset.words[row[-1]] for row in dataset.train_x.tolist()]
    assert len(set(train)) == len(train)
    assert dataset.test_x[:, -1].tolist() == [1] * len(dataset.test_y)  # one word each, and none of training's
    assert len(set(torch.bincount(dataset.train_y).tolist())) == 1


def test_writers_are_numbered_by_their_sorted_names(tmp_path: Path) -> None:
    rows = rows_of()
    dataset = load(write(tmp_path / "Reviews.csv", rows).parent, tokens=4)
    assert dataset.train_writers is not None
    assert dataset.words is not None
    numbers = [dataset.words[token] for token in dataset.train_x[:, 3].tolist()]
    assert dataset.train_writers.dtype == torch.int64
    assert dataset.train_writers.tolist() == [int(number.partition("x")[2]) % 4 for number in numbers]


def test_no_writers_where_one_is_unknown(tmp_path: Path) -> None:
    rows = [(0, "" if row[2] == 3 else row[1], *row[2:]) for row in rows_of()]
    assert load(write(tmp_path / "a/Reviews.csv", rows).parent).train_writers is None
    rows = [row[2:] for row in rows]
    assert load(write(tmp_path / "b/Reviews.csv", rows, HEADER[2:]).parent).train_writers is None


# Where the files are looked for.


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["", "amazon", "amazon_fine_food", "amazon_fine_food_extra"])
def test_a_table_is_found_in_each_place(tmp_path: Path, place: str, packed: bool) -> None:
    path = write(tmp_path / place / f"Reviews.csv{'.gz' * packed}", rows_of(), packed=packed)
    assert load(tmp_path).source == f"{path} (10 of each score; skipped: none)"


def test_tables_of_all_places_are_read_together_in_a_fixed_order(tmp_path: Path) -> None:
    rows = rows_of((8, 8, 8, 8, 8))
    places = [*("Reviews.csv", "Reviews_b.csv.gz", "amazon/Reviews.csv", "amazon/Reviews_a.csv")]
    places += ["amazon_fine_food_extra/Reviews_extra.csv"]
    paths = [tmp_path / place for place in places]
    for number, path in reversed(list(enumerate(paths))):
        write(path, rows[number::5], packed=path.suffix == ".gz")
    write(tmp_path / "amazon_fine_food_extra/Other.csv", rows_of((9, 9, 9, 9, 9)))
    together, alone = load(tmp_path), load(write(tmp_path / "one/Reviews.csv", rows).parent)
    assert together.source == f"{paths[0]}, {paths[1]}, {paths[2]} and 2 more (8 of each score; skipped: none)"
    for name in ("train_x", "train_y", "test_x", "test_y", "train_writers"):
        assert torch.equal(getattr(together, name), getattr(alone, name))


def test_a_text_of_several_tables_has_the_score_of_the_first(tmp_path: Path) -> None:
    rows = [(score, f"x{score}{n}") for score in range(1, 6) for n in range(2 if score > 1 else 1)]
    for folder, (first, second) in {"a": (5, 1), "b": (1, 5)}.items():
        write(tmp_path / folder / "amazon/Reviews_2.csv", [*rows, (first, "T0!")], ("Score", "Text"))
        write(tmp_path / folder / "amazon_fine_food/Reviews.csv", [(second, "t 0")], ("Score", "Text"))
    assert "holds 1 distinct texts of score 1, expected" in error_of(tmp_path / "a")
    assert load(tmp_path / "b").source.endswith("(2 of each score; skipped: 1 repeated text)")


def test_a_plain_table_goes_before_its_packed_copy(tmp_path: Path) -> None:
    write(tmp_path / "Reviews.csv.gz", rows_of((30, 30, 30, 30, 30)), packed=True)
    path = write(tmp_path / "Reviews.csv", rows_of())
    assert load(tmp_path).source.startswith(f"{path} (10 of each score")


def test_tables_without_users_ids_and_times_take_the_writers_away(tmp_path: Path) -> None:
    write(tmp_path / "amazon/Reviews.csv", rows_of())
    assert load(tmp_path).train_writers is not None
    write(tmp_path / "amazon/Reviews_extra.csv", [(3, f"more {n} of it") for n in range(20)], ("Score", "Text"))
    assert load(tmp_path).train_writers is None
    assert load(tmp_path, files="Reviews.csv").train_writers is not None


def test_tables_asked_for_must_be_there(tmp_path: Path) -> None:
    put(tmp_path / "texts.txt", b"one")
    write(tmp_path / "Reviews.csv", rows_of())
    assert error_of(tmp_path, files="Reviews_9.csv").startswith(
        f"{tmp_path}: holds no Reviews_9.csv, plain or .gz, neither directly nor in amazon, amazon_fine_food, "
    )


def test_a_file_unpacked_under_its_old_name_is_read(tmp_path: Path) -> None:
    assert len(read_reviews(write(tmp_path / "Reviews.csv.gz", rows_of())).texts) == 60


def test_a_missing_file_says_what_to_put_where(tmp_path: Path) -> None:
    assert error_of(None).endswith(f"{ADVICE}DIR/amazon, where DIR is the data folder (--data-dir)")
    assert (message := error_of(tmp_path)).startswith(f"{tmp_path}: holds no Reviews*.csv, plain or .gz, and no texts")
    assert message.endswith(f"{ADVICE}{tmp_path}/amazon")
    assert error_of(tmp_path / "x").startswith(f"{tmp_path / 'x'}: there is no such folder; {ADVICE}")


# Two files of plain text.


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["", "amazon"])
def test_plain_texts_with_labels_are_read(tmp_path: Path, packed: bool, place: str) -> None:
    rows = rows_of()
    tail = ".gz" * packed
    texts = "\r\n".join(f"{row[4]}\u2028" for row in rows) + "\r\n"
    put(tmp_path / place / f"texts.txt{tail}", b"\xef\xbb\xbf" + texts.encode(), packed=packed)
    put(tmp_path / place / f"labels.txt{tail}", "\n".join(str(row[2]) for row in rows).encode(), packed=packed)
    dataset = load(tmp_path)
    assert dataset.train_writers is None
    assert dataset.source.startswith(str(tmp_path / place / "texts.txt"))
    table = load(write(tmp_path / "amazon_fine_food/Reviews.csv", rows).parent)
    assert torch.equal(dataset.train_x, table.train_x)
    assert torch.equal(dataset.test_y, table.test_y)
    assert load(tmp_path).source == table.source


def test_plain_texts_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    put(tmp_path / "texts.txt", b"one\n\nthree\nfour\n\xff\n'six' \"6\"")
    put(tmp_path / "labels.txt", b"1\n2\n0\n\n5\n 3 ")
    reviews = read_reviews(tmp_path / "texts.txt")
    assert (reviews.texts, reviews.labels, reviews.writers) == (["one", "'six' \"6\""], [0, 2], ["", ""])
    assert reviews.skipped == {"bad score": 1, "empty text": 1, "missing score": 1, "not UTF-8": 1}


@pytest.mark.parametrize(("texts", "labels"), [(b"a\nb\nc", b"1\n2"), (b"a\nb\n", b"1\n2\n3\n\n")])
def test_texts_and_labels_of_different_numbers_are_told(tmp_path: Path, texts: bytes, labels: bytes) -> None:
    put(tmp_path / "texts.txt", texts)
    put(tmp_path / "labels.txt", labels)
    numbers = "3 lines, but" if len(texts) == 5 else "2 lines, but"
    message = error_of(tmp_path)
    assert message.startswith(f"{tmp_path / 'texts.txt'}: holds {numbers} {tmp_path / 'labels.txt'} holds ")
    assert f"holds {2 if len(texts) == 5 else 4}; expected the same number" in message


def test_one_of_the_two_files_alone_is_told(tmp_path: Path) -> None:
    put(tmp_path / "a/texts.txt", b"one")
    assert "holds texts.txt but no labels.txt (one score 1 to 5 per line)" in error_of(tmp_path / "a")
    put(tmp_path / "b/amazon/labels.txt", b"1")
    assert error_of(tmp_path / "b").startswith(f"{tmp_path / 'b/amazon'}: holds labels.txt but no texts.txt; ")


@pytest.mark.parametrize("name", ["texts.txt", "labels.txt"])
def test_the_damaged_one_of_the_two_files_is_named(tmp_path: Path, name: str) -> None:
    texts = "\n".join(f"text {n * n}" for n in range(999)).encode()
    labels = "\n".join(str(n * n % 5 + 1) for n in range(999)).encode()
    put(tmp_path / "texts.txt", texts, packed=True)
    put(tmp_path / "labels.txt", labels, packed=True)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
    assert error_of(tmp_path).startswith(f"{tmp_path / name}: its gzip data is damaged or cut short (")
