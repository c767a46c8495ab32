"""Rows and files of reviews that cannot be used: rows are counted by reason, files are refused with a reason."""

import csv
import gzip
from pathlib import Path

import pytest

from rflbat.data.amazon import load, read_reviews
from rflbat.errors import UserError
from tests.engine.data.test_amazon import ADVICE, error_of, put, rows_of, write

pytest.importorskip("tokenizers", reason="tokens need the package tokenizers: pip install 'rflbat[text]'")

HEAD = b"Id,Score,Text\n"


def message_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_reviews(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert ADVICE in message
    return message


# Rows.


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"2,5", "wrong number of fields"),
        (b"2,5,text,more", "wrong number of fields"),
        (b"2,,text", "missing score"),
        (b"2, ,text", "missing score"),
        (b"2,0,text", "bad score"),
        (b"2,6,text", "bad score"),
        (b"2,4.5,text", "bad score"),
        (b"2,-1,text", "bad score"),
        (b"2,five,text", "bad score"),
        (b"2,1e0,text", "bad score"),
        ("2,٣,text".encode(), "bad score"),  # a digit, but of another script
        (b"2,5,", "empty text"),
        (b'2,5," \n\t"', "empty text"),
        (b'2,5,";: <BR /> """', "empty text"),
        (b"2,5,te\0xt", "NUL byte"),
        (b"2,\0005,text", "NUL byte"),
        (b"2,5,caf\xe9", "not UTF-8"),
        (b"\0,,\xff", "missing score"),
    ],
)
def test_a_row_that_cannot_be_used_is_counted_and_left_out(tmp_path: Path, row: bytes, reason: str) -> None:
    path = put(tmp_path / "Reviews.csv", HEAD + b"1,1,first\n" + row + b"\n3,3,third\n" + row + b"\n")
    reviews = read_reviews(path)
    assert (reviews.texts, reviews.labels) == (["first", "third"], [0, 2])
    assert reviews.skipped == {reason: 2}


@pytest.mark.parametrize(
    ("row", "score", "text"),
    [
        (b'2,5,"one\ntwo\r\n\nthree"', 5, "one\ntwo\r\n\nthree"),
        (b'2,4,"say ""so"", then"', 4, 'say "so", then'),
        (b"2, 3 , a", 3, " a"),
        (b"2,2.0,pandas", 2, "pandas"),
        (b'\xff\0,1,"other columns do not matter"', 1, "other columns do not matter"),
        ("2,5,café 北京 😀".encode(), 5, "café 北京 😀"),
        (b'2,5,not"quoted" here', 5, 'not"quoted" here'),
        (b"\n\r\n2,5,blank lines are no rows\n\n", 5, "blank lines are no rows"),
        (b'2,5,"never closed', 5, "never closed\n"),
    ],
)
def test_rows_that_only_look_odd_are_read(tmp_path: Path, row: bytes, score: int, text: str) -> None:
    reviews = read_reviews(put(tmp_path / "Reviews.csv", HEAD + row + b"\n"))
    assert (reviews.texts, reviews.labels, reviews.skipped) == ([text], [score - 1], {})


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
def test_columns_are_found_by_name_whatever_ends_a_line(tmp_path: Path, ends: bytes) -> None:
    lines = (b"\xef\xbb\xbf Text ,UserId,x,Score", b"good,U1,,5", b"bad,,,1")
    reviews = read_reviews(put(tmp_path / "Reviews.csv", ends.join(lines)))
    assert (reviews.texts, reviews.labels, reviews.writers) == (["good", "bad"], [4, 0], ["U1", ""])


def test_a_line_of_ten_megabytes_is_read(tmp_path: Path) -> None:
    before = csv.field_size_limit(4321)
    long = b"word " * 2_000_000
    reviews = read_reviews(put(tmp_path / "Reviews.csv", HEAD + b"1,5," + long + b'\n2,4,"' + long + b'"\n3,3,c\n'))
    assert [len(text) for text in reviews.texts] == [10_000_000, 10_000_000, 1]
    assert csv.field_size_limit(before) == 4321


def test_a_field_beyond_the_limit_is_one_bad_row(tmp_path: Path) -> None:
    long = b'"' + b"x" * 2**24 + b'yz"'
    path = put(tmp_path / "Reviews.csv.gz", HEAD + b"1,5,a\n2,4," + long + b"\n3,3,c\n", packed=True)
    reviews = read_reviews(path)
    assert reviews.texts == ["a", "c"]
    assert reviews.skipped["unreadable row"] == 1
    assert set(reviews.skipped) <= {"unreadable row", "wrong number of fields"}


def test_what_was_skipped_stands_in_the_source(tmp_path: Path) -> None:
    rows = [*rows_of(), (1, "", 9, "", "text"), (1, "", 5, "", ""), (1, 2)]
    source = load(write(tmp_path / "Reviews.csv", rows).parent).source
    assert source.endswith("skipped: 1 bad score, 1 empty text, 1 wrong number of fields)")


# Files.


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "its first line lacks Score and Text (found: nothing)"),
        (b"\n", "its first line lacks Score and Text (found: nothing)"),
        (b"Id,Score,Summary\n1,5,x\n", "its first line lacks Text (found: 'Id, Score, Summary')"),
        (b"score,Text\n5,x\n", "its first line lacks Score (found: 'score, Text')"),
        (b"PK\x03\x04\0\r\n\xff", "its first line lacks Score and Text (found: 'PK\\x03\\x04\\x00')"),
        (HEAD, "holds no usable review (skipped: none)"),
        (HEAD + b"1,9,a\n2,5,\n3,,b\n4,8,c", "(skipped: 2 bad score, 1 empty text, 1 missing score)"),
    ],
)
def test_a_file_without_reviews_says_what_it_lacks(tmp_path: Path, content: bytes, what: str) -> None:
    assert what in message_of(put(tmp_path / "Reviews.csv", content))


def test_a_header_without_end_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "Reviews.csv", gzip.compress(b'"' + b"x" * 2**25))
    assert "its first line is not the header of a table" in message_of(path)


def test_the_faulty_one_of_several_files_is_named(tmp_path: Path) -> None:
    write(tmp_path / "Reviews.csv", rows_of())
    path = put(tmp_path / "amazon/Reviews_2.csv", b"Id,Text\n1,x\n")
    assert error_of(tmp_path).startswith(f"{path}: its first line lacks Score (found: 'Id, Text'); {ADVICE}")


@pytest.mark.parametrize("cut", [4, 11, -5, -1000])
def test_a_file_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "Reviews.csv.gz", [(n * n, "U", n % 5 + 1, n**7, n**9) for n in range(999)], packed=True)
    path.write_bytes(path.read_bytes()[:cut])
    assert "its gzip data is damaged or cut short (" in message_of(path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "Reviews.csv.gz", rows_of(), packed=True)
    content = bytearray(path.read_bytes())
    content[60:70] = bytes(10)
    path.write_bytes(content)
    assert "its gzip data is damaged or cut short (" in message_of(path)
    path.write_bytes(gzip.compress(b"Score,Text\n5,a\n") + b"rubbish")
    assert "its gzip data is damaged or cut short (" in message_of(path)


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory)" in message_of(tmp_path / "Reviews.csv")
    assert "cannot be read (Is a directory)" in message_of(tmp_path)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("os.listdir", refuse)
    assert error_of(tmp_path) == f"{tmp_path}: cannot be read (Permission denied)"


# Options, and too few reviews for them.


@pytest.mark.parametrize("count", [0, 1])
def test_every_score_needs_two_texts(tmp_path: Path, count: int) -> None:
    path = write(tmp_path / "Reviews.csv", [*rows_of((5, 5, 5, count, 5)), (0, "", 4, "", "mark1, number 1x0 !")])
    message = error_of(tmp_path)
    assert message.startswith(f"{path}: holds {count} distinct texts of score 4, expected at least 2 of each score")
    assert ADVICE in message


@pytest.mark.parametrize("per_class", [-1, 0, 1, 11])
def test_per_class_has_a_range(tmp_path: Path, per_class: int) -> None:
    path = write(tmp_path / "Reviews.csv", rows_of())
    expected = f"per_class is {per_class}; allowed: 2 to 10, the distinct texts of score 1 in {path}"
    assert error_of(tmp_path, per_class=per_class) == expected
    assert len(load(tmp_path, per_class=2).test_y) == 5


def test_other_options_have_ranges(tmp_path: Path) -> None:
    write(tmp_path / "Reviews.csv", rows_of())
    assert error_of(tmp_path, tokens=0) == "tokens is 0; allowed: at least 1"
    assert error_of(tmp_path, vocabulary=2).startswith("vocabulary is 2; allowed: at least 3")
    assert error_of(tmp_path, tokenizer="bpe") == "unknown tokenizer 'bpe'; known: basic_english, torchtext"
