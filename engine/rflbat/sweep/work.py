"""A piece of a sweep's work and its outcome, as launchers see them.

A launcher takes work from a queue until the queue is empty and nothing runs. It yields each piece twice: when it
starts, and with its outcome. The caller may put a piece back into the queue, which then runs again.
"""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar


@dataclass(frozen=True)
class CellOutcome:
    """What became of a piece of work.

    Args:
        summary: what it gave; None where it failed.
        error: the failure in one line.
        details: its traceback, or what is known of a process that died.
        again: whether a second attempt may go better.
    """

    summary: dict[str, Any] | None
    error: str = ""
    details: str = ""
    again: bool = False


Item = TypeVar("Item")
Work = Callable[[Item], CellOutcome]
Told = Generator[tuple[Item, CellOutcome | None], None, None]
Launcher = Callable[[deque[Item], Work[Item]], Told[Item]]
