"""Reading untrusted files: regular files only, of bounded size, plain or gzip, and inside the allowed folder."""

import errno
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rflbat.errors import UserError

_FREE = 2**26
_RATIO = 200
"""Bound on unpacked gzip data: 200 times the file's size (text and images stay far below), or 64 MiB if larger."""


def open_regular(path: Path, within: Path | None = None) -> io.BufferedReader:
    """Open a regular file for reading; refuse pipes and devices, which may block or never end, and folders.

    Args:
        path: the file; links are followed.
        within: folder of data sets, which may itself be a link; a link inside it that leads out is refused.

    Returns:
        the open file, in binary mode.

    Raises:
        OSError: the file cannot be opened, is not a regular file, or is outside ``within``.

    Example:
        >>> open_regular(Path(os.devnull))
        Traceback (most recent call last):
            ...
        OSError: [Errno 22] not a regular file: '/dev/null'
    """
    place = os.path.realpath(path)
    if within is not None and not Path(place).is_relative_to(os.path.realpath(within)):
        raise OSError(errno.EXDEV, f"it leads out of the data folder {within}, to {place}", str(path))
    # Without O_NONBLOCK, opening a pipe blocks until another process opens it for writing.
    descriptor = os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, os.strerror(number) if number == errno.EISDIR else "not a regular file", str(path))
    return open(descriptor, "rb")


def read_bounded(path: Path, most: int) -> bytes:
    """Read a whole file of bounded size.

    Args:
        path: the file.
        most: maximum size in bytes.

    Returns:
        its contents.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is larger than ``most``.
    """
    with open_regular(path) as file:
        contents = file.read(most + 1)
    if len(contents) > most:
        raise ValueError(f"it has more than {most} bytes")
    return contents


@contextmanager
def unpacked(path: Path, most: int, hint: str = "", within: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a data file, plain or gzip; the first bytes decide, because browsers unpack files without renaming them.

    Decompression bombs cost neither memory nor time: gzip data may unpack to ``most`` bytes, and to no more than the
    larger of 64 MiB and 200 times the size of the file.

    Args:
        path: the file.
        most: maximum size in bytes, unpacked.
        hint: end of every error message: where to get a valid file.
        within: folder of data sets, which may itself be a link; a link inside it that leads out is refused.

    Yields:
        the unpacked bytes as a stream; a ValueError raised in the block becomes a UserError that names the file.

    Raises:
        UserError: the file cannot be read, is outside ``within``, damaged or too large, or the block raised ValueError.
    """
    try:
        with open_regular(path, within) as raw:
            size = os.fstat(raw.fileno()).st_size
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=raw) as content:
                    yield io.BufferedReader(_Bounded(content, min(most, max(_FREE, _RATIO * size))))
            else:
                if size > most:
                    raise ValueError(f"has {size} bytes; allowed: at most {most}")
                yield raw
    except UserError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(_message(path, f"its gzip data is damaged or cut short ({error})", hint)) from error
    except OSError as error:
        raise UserError(_message(path, f"cannot be read ({error.strerror or error})", hint)) from error
    except ValueError as error:
        raise UserError(_message(path, str(error), hint)) from error


def _message(path: Path, reason: str, hint: str) -> str:
    return f"{path}: {reason}; {hint}" if hint else f"{path}: {reason}"


class _Bounded(io.RawIOBase):
    """Unpacked gzip data, up to a limit."""

    def __init__(self, content: gzip.GzipFile, most: int) -> None:
        self._content = content
        self._most = most
        self._left = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._content.read(min(len(buffer), self._left + 1))
        if len(piece) > self._left:
            raise ValueError(f"unpacks to more than {self._most} bytes: not such a file, or a decompression bomb")
        buffer[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)
