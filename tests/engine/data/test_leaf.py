"""The reader of LEAF's JSON: what it hands out and when, and every way in which a file can be wrong."""

import gzip
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rflbat.data import leaf
from rflbat.data.leaf import read_users, shown
from rflbat.errors import UserError
from tests.engine.data.leaf_files import document, make_users, write_json

HINT = "get a better one"
TWO = {"a": {"x": [[0.5, 1], [0.25, 0]], "y": [3, 4]}, "b": {"x": [[1.0, 1.0]], "y": [5]}}
READ = [(user, data["x"], data["y"]) for user, data in TWO.items()]


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        list(read_users(path, HINT))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    assert message.endswith(f"; {HINT}")
    return message


@pytest.mark.parametrize("name", ["one.json", "one.json.gz", "one.gz"])
def test_plain_and_gzip(tmp_path: Path, name: str) -> None:
    assert list(read_users(write_json(tmp_path / name, document(TWO)))) == READ


def test_gzip_is_told_by_its_bytes_not_its_name(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_bytes(gzip.compress(json.dumps(document(TWO)).encode()))
    assert list(read_users(tmp_path / "one.json")) == READ


@pytest.mark.parametrize("keys", list(itertools.permutations(("users", "num_samples", "user_data"))))
def test_keys_in_any_order(tmp_path: Path, keys: tuple[str, ...]) -> None:
    whole = document(TWO)
    assert list(read_users(write_json(tmp_path / "a.json", {key: whole[key] for key in keys}))) == READ


@pytest.mark.parametrize("extra", [["h"], {"deep": [{"]": "}"}]}, "x]", 1.5e-3, True, None, ""])
def test_further_keys_are_ignored(tmp_path: Path, extra: Any) -> None:
    for value in ({"hierarchies": extra, **document(TWO)}, {**document(TWO), "hierarchies": extra}):
        assert list(read_users(write_json(tmp_path / "a.json", value))) == READ


def test_no_users_and_users_without_samples(tmp_path: Path) -> None:
    assert list(read_users(write_json(tmp_path / "a.json", document({})))) == []
    empty = {"a": {"x": [], "y": []}}
    assert list(read_users(write_json(tmp_path / "b.json", document(empty)))) == [("a", [], [])]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("indent", [None, 3])
def test_where_the_blocks_end_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, indent: int | None
) -> None:
    """Names full of what JSON gives a meaning, so that every cut falls into every kind of token."""
    odd = {name: {"x": [[0.5e-1]], "y": [-12]} for name in ('"', "\\", '\\"', "}]{[", "é", "\n,:", "", "😀")}
    monkeypatch.setattr(leaf, "_BLOCK", block)
    for ascii_only in (True, False):
        whole = {"version": -1.25e2, **document(odd)}
        text = json.dumps(whole, indent=indent, ensure_ascii=ascii_only)
        (tmp_path / "odd.json").write_text(f"\r\n\t {text} \n", encoding="utf-8")
        assert list(read_users(tmp_path / "odd.json")) == [(name, [[0.05]], [-12]) for name in odd]


def test_users_come_before_the_stream_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    users = make_users({f"user{number:03}": 2 for number in range(100)})
    stream = io.BytesIO(json.dumps(document(users)).encode())
    size = len(stream.getvalue())
    monkeypatch.setattr(leaf, "_BLOCK", 4096)
    text = leaf._Text(stream)
    largest = 0
    for number, (user, _, _) in enumerate(leaf._users(text), start=1):
        assert user == f"user{number - 1:03}"
        assert stream.tell() < size * number / 100 + 8192
        largest = max(largest, len(text._buffer))
    assert number == 100
    assert largest < 2.5 * size / 100


def test_one_value_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaf, "_BLOCK", 100)
    monkeypatch.setattr(leaf, "_LARGEST", 1000)
    path = write_json(tmp_path / "a.json", document({"a": {"x": [[0.0] * 784], "y": [1]}}))
    assert "user 'a': holds a value of more than 1000 bytes at byte " in error_of(path)
    path.write_text('{"users": "' + "[" * 2000)
    assert "holds a value of more than 1000 bytes at byte 10;" in error_of(path)


# Mistakes.


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory)" in error_of(tmp_path / "none.json")
    assert "cannot be read (Is a directory)" in error_of(tmp_path)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    content = json.dumps(document(TWO)).encode()
    path = tmp_path / "a.json"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        error_of(path)
    path = tmp_path / "a.json.gz"
    packed = gzip.compress(content)
    for length in range(2, len(packed)):
        path.write_bytes(packed[:length])
        assert "its gzip data is damaged or cut short (" in error_of(path)


def test_a_flipped_byte_in_gzip_is_noticed(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(json.dumps(document(make_users({"a": 3}))).encode()))
    packed[len(packed) // 2] ^= 16
    (tmp_path / "a.json.gz").write_bytes(packed)
    error_of(tmp_path / "a.json.gz")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "ends too early: expected { at byte 0"),
        ("hello", "is not LEAF JSON: expected { at byte 0, found 'h'"),
        ("[]", "is not LEAF JSON: expected { at byte 0, found '['"),
        ("{}", "holds no user_data, so it is not a LEAF file"),
        ("{1: 2}", "expected \" at byte 1, found '1'"),
        ('{"users" 5}', "expected : at byte 9, found '5'"),
        ('{"users": }', "found '}'"),
        ('{"users": [1,]}', "is not JSON: "),  # in words that changed with Python 3.13
        ('{"users": [1}', "is not JSON: "),
        ('{"users": tru}', "is not JSON: Expecting value at byte 10"),
        ('{"users": [], "users": []}', "holds the key 'users' twice"),
        ('{"users": [],}', "expected \" at byte 13, found '}'"),
        ('{"users": [] "num_samples": []}', "expected , or } at byte 13"),
        ('{"users": [], "num_samples": [], "user_data": []}', "expected { at byte 46, found '['"),
        ('{"users": [], "num_samples": [], "user_data": {}} {}', "continues after the end of its object, at byte 50"),
        ('{"users": {}, "num_samples": [], "user_data": {}}', "its users is {}, expected a list"),
        ('{"users": [], "user_data": {}}', "its num_samples is missing, expected a list"),
        ('{"users": "\\ud800", "user_data": {}}', "its users is '\\ud800', expected a list"),
        ('{"users": ' + "[" * 100000 + "]" * 100000 + "}", "is nested too deeply at byte 10"),
        ('{"users": [' + "1" * 5000 + "]}", "limit"),
    ],
)
def test_what_is_no_leaf_json_is_told(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert what in error_of(tmp_path / "a.json")


def test_what_is_no_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"\xff": 1}')
    assert "can't decode byte 0xff" in error_of(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps(document(TWO)), encoding="utf-16")
    assert "is not LEAF JSON: expected { at byte 0, found 'ÿ'" in error_of(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (5, "user 'b': holds 5, expected an object with the lists x and y"),
        (None, "user 'b': holds None, expected an object"),
        ([[0.5], [1]], "user 'b': holds [[0.5], [1]], expected an object"),
        ({"x": [[1]]}, "user 'b': its y is missing, expected a list"),
        ({"x": "text", "y": [1]}, "user 'b': its x is 'text', expected a list"),
        ({"x": [[1]], "y": {"0": 1}}, "user 'b': its y is {'0': 1}, expected a list"),
        ({"x": [[1], [1]], "y": [1]}, "user 'b': x holds 2 samples and y 1; expected the same number"),
        ({"x": [[float("nan")]], "y": [1]}, "user 'b': holds NaN, which is not a JSON number"),
        ({"x": [[float("inf")]], "y": [1]}, "user 'b': holds Infinity, which is not a JSON number"),
        ({"x": [[-float("inf")]], "y": [1]}, "user 'b': holds -Infinity, which is not a JSON number"),
    ],
)
def test_wrong_samples_name_their_user(tmp_path: Path, data: Any, what: str) -> None:
    whole = {"users": ["a", "b"], "num_samples": [2, 1], "user_data": {**TWO, "b": data}}
    assert what in error_of(write_json(tmp_path / "a.json", whole))


def test_keys_that_stand_twice(tmp_path: Path) -> None:
    one = '{"x": [], "y": []}'
    (tmp_path / "a.json").write_text(f'{{"user_data": {{"a": {one}, "b": {one}, "a": {one}}}}}')
    assert "holds the key 'a' twice" in error_of(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"user_data": {"a": {"x": [], "y": [], "x": []}}}')
    assert "user 'a': holds the key 'x' twice" in error_of(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(f'{{"user_data": {{"a": {one}}}, "user_data": {{"b": {one}}}}}')
    assert "holds the key 'user_data' twice" in error_of(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda whole: whole["users"].pop(), "users has 1 entries and num_samples 2"),
        (lambda whole: whole["num_samples"].append(1), "users has 2 entries and num_samples 3"),
        (lambda whole: whole["user_data"].pop("b"), "user 'b' is in users but not in user_data"),
        (lambda whole: whole["users"].__setitem__(1, "a"), "user 'a' is listed twice in users"),
        (lambda whole: whole["users"].__setitem__(1, ["b"]), "user ['b'] is in users but not in user_data"),
        (lambda whole: whole["num_samples"].__setitem__(0, 3), "user 'a': num_samples says 3, but it holds 2"),
        (lambda whole: whole["num_samples"].__setitem__(1, True), "user 'b': num_samples says True, but it holds 1"),
        (lambda whole: whole["num_samples"].__setitem__(1, "1"), "user 'b': num_samples says '1', but it holds 1"),
        (
            lambda whole: (whole["users"].pop(), whole["num_samples"].pop()),
            "user 'b' is in user_data but not in users",
        ),
    ],
)
def test_parts_that_disagree(tmp_path: Path, change: Callable[[dict[str, Any]], Any], what: str) -> None:
    whole = json.loads(json.dumps(document(TWO)))
    change(whole)
    for value in (whole, dict(reversed(whole.items()))):
        assert what in error_of(write_json(tmp_path / "a.json", value))


def test_values_are_shown_short_and_in_one_line() -> None:
    for value in ("a\nb" * 10**6, [[0.5] * 784] * 100, {"a\n": ["b"] * 100}):
        assert len(shown(value)) < 300
        assert "\n" not in shown(value)
