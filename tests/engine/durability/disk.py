"""Everything that a run does to its folder, as numbered events at which a test can let something happen."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import rflbat.storage.atomic
import rflbat.storage.run_folder
import rflbat.storage.tensors

Act = Callable[[str, Callable[[], object]], None]
"""``act(kind, half)`` is called before an event; ``half()`` does half of it, or nothing where it has no half."""


class Watched:
    """An open file that tells of what is written to it."""

    def __init__(self, file: Any, act: Act) -> None:
        self._file, self._act = file, act

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes) -> None:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._act("write", half)
        self._file.write(data)
        self._file.flush()

    def writelines(self, lines: Iterator[bytes]) -> None:
        for line in lines:
            self.write(line)


@contextmanager
def watched(act: Act) -> Iterator[None]:
    """Let `act` be called before every write, sync, renaming and removal."""

    def plain(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def told(*args: Any, **kwargs: Any) -> Any:
            act(name, lambda: None)
            return real(*args, **kwargs)

        patch.setattr(owner, name, told)

    def opened(*args: Any, **kwargs: Any) -> Any:
        file = open(*args, **kwargs)  # noqa: SIM115 (handed on)
        writes = set("wa+") & set(args[1] if len(args) > 1 else "r")
        return Watched(file, act) if writes else file

    def write_text(path: Path, text: str, **kwargs: Any) -> int:
        act("write_text", lambda: real_text(path, text[: len(text) // 2], **kwargs))
        return real_text(path, text, **kwargs)

    real_text = Path.write_text
    with pytest.MonkeyPatch.context() as patch:
        for owner in (rflbat.storage.atomic, rflbat.storage.run_folder, rflbat.storage.tensors):
            patch.setattr(owner, "open", opened, raising=False)
        for owner, name in ((os, "replace"), (os, "fsync"), (os, "ftruncate"), (Path, "mkdir"), (Path, "unlink")):
            plain(owner, name)
        patch.setattr(Path, "write_text", write_text)
        yield


class At:
    """Do something at one event, before it or in the middle of it; count them all."""

    def __init__(self, number: int, middle: bool, happen: Callable[[str], object]) -> None:
        self.number, self.middle, self.happen = number, middle, happen
        self.seen: list[str] = []

    def __call__(self, kind: str, half: Callable[[], object]) -> None:
        self.seen.append(kind)
        if len(self.seen) - 1 == self.number:
            if self.middle:
                half()
            self.happen(kind)
