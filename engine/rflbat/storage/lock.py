"""A lock for the single writer of a run folder; the operating system releases it however its holder ends."""

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from rflbat.errors import UserError

_log = logging.getLogger(__name__)

LOCK = ".lock"
PATIENCE = 1.0
"""Seconds to wait for a holder that is about to exit, such as a worker whose sweep was killed."""
_fcntl: Any = import_module("fcntl") if os.name == "posix" else None
_HELD = (errno.EAGAIN, errno.EACCES)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Lock a run folder so that no other process writes to it; create the folder if it does not exist.

    The lock is held on the file ``.lock`` in the folder. The file names its holder and is removed at the end. A file
    left by a killed process holds no lock.

    Args:
        folder: the folder; created with its parents.

    Raises:
        UserError: another process (or another thread of this one) is writing to the folder, or it is not writable.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp())
        >>> with sole_writer(place), sole_writer(place):  # doctest: +ELLIPSIS
        ...     pass
        Traceback (most recent call last):
            ...
        rflbat.errors.UserError: ...: in use by process ... on ...; wait until that run ends, or use another folder
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _acquire(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{folder}: cannot make a run folder or write to it: {reason}") from error
    try:
        yield
    finally:
        if _is_of(lock, path):
            with suppress(OSError):
                path.unlink()
        os.close(lock)


def _acquire(path: Path) -> int:
    """Return the descriptor of the locked file."""
    deadline = time.monotonic() + PATIENCE
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            held = _is_held_by_another(lock)
            # A holder that exited meanwhile has removed the file; a lock on an unlinked file protects nothing.
            if not held and _is_of(lock, path):
                os.ftruncate(lock, 0)
                os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return lock
            if held and time.monotonic() > deadline:
                raise UserError(
                    f"{path.parent}: in use by {_holder(lock)}; wait until that run ends, or use another folder"
                )
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        time.sleep(0.02)


def _is_held_by_another(lock: int) -> bool:
    if _fcntl is None:
        _log.warning("this system has no file locks: make sure that no other process uses the run folder")
        return False
    try:
        _fcntl.flock(lock, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return True
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        _log.warning("the run folder's file system has no locks (%s): make sure that no other process uses it", error)
    return False


def _is_of(lock: int, path: Path) -> bool:
    """Check whether a path still refers to the file of a descriptor."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def _holder(lock: int) -> str:
    """Return the name of the lock's holder; for a moment after the file is locked, its name is not yet written."""
    told = os.pread(lock, 200, 0).decode(errors="replace").strip()
    return told if told.isprintable() and told else "another process"
