"""Streaming reader for LEAF's JSON: one user at a time, so files of many gigabytes need only megabytes of memory.

Source: S. Caldas et al., LEAF: a benchmark for federated settings, 2018 (arXiv:1812.01097), "all_data" files.
"""

import json
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from rflbat.storage.untrusted import unpacked

_BLOCK = 2**20  # bytes per read
_WHOLE = 2**34  # maximum bytes of one file, unpacked; all of FEMNIST, which LEAF splits into many files, has 6 * 10^9
_LARGEST = 2**25  # maximum bytes of one user; FEMNIST's largest has 9 million

_SPACE = re.compile(rb"[ \t\r\n]*+")
_MARK = re.compile(rb'[][{}"]')
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(rb'[^][{}",:\s]*+')

_shortened = reprlib.Repr()
_shortened.maxstring = 80
_shortened.maxlevel = 2


def shown(value: object) -> str:
    """Format a value from a file for a message: its ``repr`` on one line, shortened if long.

    Example:
        >>> shown("two\\nlines"), shown([0] * 1000)
        ("'two\\\\nlines'", '[0, 0, 0, 0, 0, 0, ...]')
    """
    return _shortened.repr(value)


def read_users(path: Path, hint: str = "", within: Path | None = None) -> Iterator[tuple[str, list[Any], list[Any]]]:
    """Read the users of one file, plain or gzip, one after the other.

    The file holds one object with ``users``, ``num_samples`` and ``user_data`` in any order; further keys, such as
    LEAF's ``hierarchies``, are ignored. The three are checked against each other only at the end of the file.

    Args:
        path: the file.
        hint: end of every error message: where to get a valid file.
        within: folder of data sets; a link inside it that leads out is refused.

    Yields:
        name of the user, its ``x`` and its ``y``: lists of equal length, possibly empty, of unchecked JSON values.

    Raises:
        UserError: the file cannot be read, is damaged or is not LEAF JSON, or its parts contradict each other.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "toy.json"
        >>> _ = path.write_text('{"users": ["u"], "num_samples": [1], "user_data": {"u": {"x": [[0.5]], "y": [7]}}}')
        >>> list(read_users(path))
        [('u', [[0.5]], [7])]
    """
    with unpacked(path, _WHOLE, hint, within) as stream:
        yield from _users(_Text(stream))


def _users(text: "_Text") -> Iterator[tuple[str, list[Any], list[Any]]]:
    lists: dict[str, Any] = {}
    counts: dict[str, int] | None = None
    for key in text.members():
        if key != "user_data":
            lists[key] = text.value()
            continue
        counts = {}
        for user in text.members():
            try:
                x, y = _samples(text.value())
            except ValueError as error:
                raise ValueError(f"user {shown(user)}: {error}") from error
            counts[user] = len(y)
            yield user, x, y
    text.end()
    _check_lists(lists.get("users"), lists.get("num_samples"), counts)


def _samples(value: Any) -> tuple[list[Any], list[Any]]:
    if not isinstance(value, dict):
        raise ValueError(f"holds {shown(value)}, expected an object with the lists x and y")
    for name in ("x", "y"):
        if not isinstance(value.get(name), list):
            raise ValueError(f"its {name} is {shown(value[name]) if name in value else 'missing'}, expected a list")
    if len(value["x"]) != len(value["y"]):
        raise ValueError(f"x holds {len(value['x'])} samples and y {len(value['y'])}; expected the same number")
    return value["x"], value["y"]


def _check_lists(users: Any, numbers: Any, counts: dict[str, int] | None) -> None:
    """Check that ``users`` and ``num_samples`` agree with ``user_data``, given by the number of samples per user."""
    if counts is None:
        raise ValueError("holds no user_data, so it is not a LEAF file")
    for name, value in (("users", users), ("num_samples", numbers)):
        if not isinstance(value, list):
            raise ValueError(f"its {name} is {'missing' if value is None else shown(value)}, expected a list")
    if len(users) != len(numbers):
        raise ValueError(f"users has {len(users)} entries and num_samples {len(numbers)}; expected the same number")
    listed: set[str] = set()
    for user, number in zip(users, numbers, strict=True):
        if not isinstance(user, str) or user not in counts:
            raise ValueError(f"user {shown(user)} is in users but not in user_data")
        if user in listed:
            raise ValueError(f"user {shown(user)} is listed twice in users")
        listed.add(user)
        if type(number) is not int or number != counts[user]:
            raise ValueError(f"user {shown(user)}: num_samples says {shown(number)}, but it holds {counts[user]}")
    for user in counts:
        if user not in listed:
            raise ValueError(f"user {shown(user)} is in user_data but not in users")


class _Text:
    """Streaming JSON tokenizer that buffers only the current value; errors are ValueErrors that name the position."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0  # position of the next byte in the buffer
        self._gone = 0  # number of bytes already dropped from the buffer

    def members(self) -> Iterator[str]:
        """Yield the keys of the object at the current position; the caller must read each value before the next key."""
        seen: set[str] = set()
        self._take(b"{")
        if self._peek() == b"}":
            self._take(b"}")
            return
        mark = b","
        while mark == b",":
            if self._peek() != b'"':
                raise self._unexpected(b'"')
            key = self.value()
            if key in seen:
                raise ValueError(f"holds the key {shown(key)} twice")
            seen.add(key)
            self._take(b":")
            yield key
            mark = self._take(b",}")

    def value(self) -> Any:
        """Read the complete value at the current position."""
        first = self._peek()
        if first in (b"", b",", b":", b"]", b"}"):
            raise self._unexpected(b"{[0")
        end = self._end_of_scalar() if first not in b'{["' else self._end_of_nested()
        start, self._at = self._at, end
        try:
            return _DECODER.decode(self._buffer[start:end].decode())
        except json.JSONDecodeError as error:
            raise ValueError(f"is not JSON: {error.msg} at byte {self._gone + start + error.pos}") from error
        except RecursionError as error:
            raise ValueError(f"is nested too deeply at byte {self._gone + start}") from error

    def end(self) -> None:
        """Check that nothing follows the document."""
        if self._peek():
            raise ValueError(f"continues after the end of its object, at byte {self._gone + self._at}")

    def _more(self) -> bool:
        """Append another block to the buffer and drop what was consumed; positions in the buffer change."""
        if len(self._buffer) - self._at > _LARGEST:
            raise ValueError(f"holds a value of more than {_LARGEST} bytes at byte {self._gone + self._at}")
        block = self._stream.read(_BLOCK)
        self._buffer = self._buffer[self._at :] + block
        self._gone += self._at
        self._at = 0
        return bool(block)

    def _peek(self) -> bytes:
        """Skip white space; return the next byte without consuming it, or an empty string at the end."""
        while True:
            if space := _SPACE.match(self._buffer, self._at):
                self._at = space.end()
            if self._at < len(self._buffer) or not self._more():
                return self._buffer[self._at : self._at + 1]

    def _take(self, allowed: bytes) -> bytes:
        mark = self._peek()
        if not mark or mark not in allowed:
            raise self._unexpected(allowed)
        self._at += 1
        return mark

    def _unexpected(self, allowed: bytes) -> ValueError:
        found = self._peek()
        place = f"at byte {self._gone + self._at}"
        expected = f"expected {' or '.join(map(chr, allowed))}"
        if not found:
            return ValueError(f"ends too early: {expected} {place}")
        return ValueError(f"is not LEAF JSON: {expected} {place}, found {shown(found.decode('latin-1'))}")

    def _end_of_scalar(self) -> int:
        while (found := _SCALAR.match(self._buffer, self._at)) and found.end() == len(self._buffer) and self._more():
            pass
        return found.end() if found else self._at

    def _end_of_nested(self) -> int:
        """Find the end of the string, object or array at the current position; strings may contain brackets."""
        depth = past = 0  # past: number of bytes known to belong to the value
        while True:
            mark = _MARK.search(self._buffer, self._at + past)
            opens = mark is not None and mark[0] == b'"'
            token = _STRING.match(self._buffer, mark.start()) if mark and opens else mark
            if token is None:
                past = (mark.start() if mark else len(self._buffer)) - self._at
                if not self._more():
                    raise ValueError(f"ends too early, inside the value at byte {self._gone + self._at}")
                continue
            past = token.end() - self._at
            depth += 0 if opens else 1 if token[0] in b"[{" else -1
            if depth == 0:
                return token.end()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"holds the key {shown(next(key for key in keys if keys.count(key) > 1))} twice")
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"holds {name}, which is not a JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_refuse)
