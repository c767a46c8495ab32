"""The folder of a run: its settings (run.json), its records (JSON lines) and its result (summary.json).

Lines are appended and flushed as they are produced, so a running or killed run can be read. A line counts once its
newline is written: readers ignore a half-written last line, and ``truncate`` removes it.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rflbat.errors import UserError
from rflbat.storage.atomic import replacing, to_json
from rflbat.storage.untrusted import open_regular, read_bounded

Record = dict[str, Any]

RUN = "run.json"
SUMMARY = "summary.json"
ROUNDS = "rounds.jsonl"
CLIENTS = "clients.jsonl"
TIMINGS = "timings.jsonl"
SHADOWS = "shadows.jsonl"
VOCABULARY = "vocabulary.txt"
CHECKPOINT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"
FIGURES = "figures"

_LARGEST = 2**26
"""Maximum bytes of a JSON file or of a line. run.json lists the sizes of all clients; anything larger is invalid."""


@dataclass(frozen=True)
class RunFolder:
    """One run on disk.

    Args:
        path: the folder; use ``create`` for a new run and ``open`` for an existing one.

    Example:
        >>> import tempfile
        >>> run = RunFolder.create(Path(tempfile.mkdtemp()) / "first", {"config": {"rounds": 2}})
        >>> run.append_round({"round": 0, "accuracy": 0.5})
        >>> run.append_round({"round": 1, "accuracy": float("nan")})
        >>> run.rounds()
        [{'round': 0, 'accuracy': 0.5}, {'round': 1, 'accuracy': None}]
        >>> run.truncate(1)
        >>> [record["round"] for record in run.rounds()]
        [0]
    """

    path: Path

    @classmethod
    def create(cls, path: Path, run: Mapping[str, Any]) -> Self:
        """Start a run in a new or unused folder by writing its run.json.

        Args:
            path: the folder; created, with its parents, if it does not exist. Unrelated files in it are left alone.
            run: the contents of run.json.

        Returns:
            the folder, ready for records.

        Raises:
            UserError: the folder already holds a run, or cannot be created.
        """
        own = (RUN, SUMMARY, ROUNDS, CLIENTS, TIMINGS, SHADOWS, CHECKPOINT, PREVIOUS)
        if any(os.path.lexists(path / name) for name in own):
            raise UserError(f"{path} already holds a run: continue with `rflbat resume {path}` or use another --out")
        try:
            path.mkdir(parents=True, exist_ok=True)
            _write(path / RUN, run)
        except OSError as error:
            raise UserError(f"{path}: cannot make a run folder: {error.strerror}") from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the folder of an existing run.

        Raises:
            UserError: run.json is missing or is not JSON.
        """
        folder = cls(path)
        folder.run()
        return folder

    @property
    def checkpoint(self) -> Path:
        """The path of this run's checkpoint, which may not exist."""
        return self.path / CHECKPOINT

    @property
    def previous(self) -> Path:
        """The path of the checkpoint before the latest one, which may not exist."""
        return self.path / PREVIOUS

    @property
    def latest(self) -> Path | None:
        """The checkpoint to resume from: the previous one after a kill between the two renames; None without any."""
        return next((path for path in (self.checkpoint, self.previous) if os.path.lexists(path)), None)

    @property
    def figures(self) -> Path:
        """The folder of this run's figures; ``report_run`` creates it."""
        return self.path / FIGURES

    def run(self) -> Record:
        """Return the run's settings: the contents of run.json.

        Raises:
            UserError: run.json is missing or is not JSON.
        """
        return read_json(self.path / RUN)

    def summary(self) -> Record | None:
        """Return the run's result: the contents of summary.json, or None while the run is unfinished.

        Raises:
            UserError: summary.json exists but is not JSON.
        """
        path = self.path / SUMMARY
        return read_json(path) if path.exists() else None

    def write_vocabulary(self, words: Iterable[str]) -> None:
        """Write vocabulary.txt: one word per line, the first with token id 0."""
        with replacing(self.path / VOCABULARY) as temporary:
            temporary.write_text("".join(f"{word}\n" for word in words), encoding="utf-8", newline="\n")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, which marks the run as finished."""
        _write(self.path / SUMMARY, summary)

    def append_round(self, record: Mapping[str, Any]) -> None:
        """Append the record of one round to rounds.jsonl."""
        _append(self.path / ROUNDS, [record])

    def append_clients(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append the records of one round's clients to clients.jsonl, in one write."""
        _append(self.path / CLIENTS, records)

    def append_shadows(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append the records of one round's shadow defenses to shadows.jsonl, in one write."""
        _append(self.path / SHADOWS, records)

    def append_timing(self, record: Mapping[str, Any]) -> None:
        """Append the record of one round to timings.jsonl."""
        _append(self.path / TIMINGS, [record])

    def rounds(self) -> list[Record]:
        """Return the records of rounds.jsonl, or an empty list if the file does not exist yet.

        Raises:
            UserError: a line other than the last is not a record; also raised by the other readers of lines.
        """
        return _read(self.path / ROUNDS)

    def clients(self) -> list[Record]:
        """Return the records of clients.jsonl."""
        return _read(self.path / CLIENTS)

    def shadows(self) -> list[Record]:
        """Return the records of shadows.jsonl, or an empty list if the run has no shadow defenses."""
        return _read(self.path / SHADOWS)

    def timings(self) -> list[Record]:
        """Return the records of timings.jsonl."""
        return _read(self.path / TIMINGS)

    def sync(self) -> None:
        """Sync all records to disk, so that after a power failure no checkpoint is ahead of them."""
        for path in (self.path / name for name in (ROUNDS, CLIENTS, TIMINGS, SHADOWS)):
            if path.exists():
                with open(path, "rb+") as file:
                    os.fsync(file.fileno())

    def truncate(self, first: int) -> None:
        """Remove the records of round ``first`` and later, and a half-written last line, before a resumed run appends.

        Args:
            first: the next round to run, counted from 0. Each file is replaced atomically, and the lines that stay are
                unchanged byte for byte.

        Raises:
            UserError: a line other than the last is not a record.
        """
        for path in (self.path / name for name in (ROUNDS, CLIENTS, TIMINGS, SHADOWS)):
            if path.exists():
                with replacing(path) as temporary, open(temporary, "wb") as file:
                    file.writelines(line for line, record in _lines(path) if record["round"] < first)


def read_json(path: Path) -> Record:
    """Read a file that holds one JSON object.

    Raises:
        UserError: the file is missing, unreadable, not JSON, or JSON but not an object.
    """
    try:
        value = json.loads(read_bounded(path, _LARGEST))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: {path.parent} is not the folder of a run") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: damaged: holds a JSON {type(value).__name__}, not an object")
    return value


def _write(path: Path, value: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(to_json(value, indent=2) + "\n", encoding="utf-8")


def _append(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(to_json(record) + "\n" for record in records)
    with open(path, "ab", opener=_no_link) as file:
        file.write(text.encode())


def _no_link(name: str, flags: int) -> int:
    """Open for writing, without following a link: a link in a run folder could lead to an unrelated file."""
    return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _read(path: Path) -> list[Record]:
    return [record for _, record in _lines(path)] if os.path.lexists(path) else []


def _lines(path: Path) -> Iterator[tuple[bytes, Record]]:
    broken = 0
    try:
        file = open_regular(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        for number, line in enumerate(iter(lambda: file.readline(_LARGEST), b""), start=1):
            if broken:
                raise UserError(f"{path}: damaged: line {broken} is not the JSON record of a round")
            record = _parse(line)
            if record is None:
                broken = number
            else:
                yield line, record


def _parse(line: bytes) -> Record | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("round"), int) else None
