"""Opening files that somebody else wrote: regular ones, of bounded size, plain or gzip, from where they may lie."""

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
"""What a gzip file may become: 200 times its size (text and images stay far below), or 64 MiB if that is more."""


def open_regular(path: Path, within: Path | None = None) -> io.BufferedReader:
    """Open a file for reading, unless it is a pipe, a device or a folder, which may never end or never begin.

    Args:
        path: the file; links are followed.
        within: folder of data sets, which may itself be a link; a link in it that leads out is refused.

    Returns:
        its bytes.

    Raises:
        OSError: it cannot be opened, is no regular file, or lies elsewhere.

    Example:
        >>> open_regular(Path(os.devnull))
        Traceback (most recent call last):
            ...
        OSError: [Errno 22] not a regular file: '/dev/null'
    """
    place = os.path.realpath(path)
    if within is not None and not Path(place).is_relative_to(os.path.realpath(within)):
        raise OSError(errno.EXDEV, f"it leads out of the data folder {within}, to {place}", str(path))
    # Without O_NONBLOCK opening a pipe waits for somebody who writes.
    descriptor = os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, os.strerror(number) if number == errno.EISDIR else "not a regular file", str(path))
    return open(descriptor, "rb")


def read_bounded(path: Path, most: int) -> bytes:
    """Read a whole file that is small when it is what it should be.

    Args:
        path: the file.
        most: bytes that it may have.

    Returns:
        its contents.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger.
    """
    with open_regular(path) as file:
        contents = file.read(most + 1)
    if len(contents) > most:
        raise ValueError(f"it has more than {most} bytes")
    return contents


@contextmanager
def unpacked(path: Path, most: int, hint: str = "", within: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a data file, plain or gzip (told apart by its first bytes, since browsers unpack and keep the name).

    Neither memory nor time is given to a bomb: what comes out of gzip is at most `most` bytes, and at most 64 MiB or
    200 times the bytes that went in, whichever is more.

    Args:
        path: the file.
        most: bytes that it may have, unpacked.
        hint: ends the message of an error: where to get a good file.
        within: folder of data sets, which may itself be a link; a link in it that leads out is refused.

    Yields:
        the bytes to read; a ValueError of whoever reads them becomes a UserError that names the file.

    Raises:
        UserError: the file cannot be read, lies elsewhere, is damaged or too large; or the block raised a ValueError.
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
                    raise ValueError(f"has {size} bytes, allowed are {most}")
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
    """What comes out of gzip, up to a limit."""

    def __init__(self, content: gzip.GzipFile, most: int) -> None:
        self._content = content
        self._most = most
        self._left = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._content.read(min(len(buffer), self._left + 1))
        if len(piece) > self._left:
            raise ValueError(f"unpacks to more than {self._most} bytes, which is a bomb or no such file")
        buffer[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)
