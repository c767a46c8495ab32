"""Interface between a sweep and its launchers: an item of work and its outcome.

A launcher takes items from a queue until the queue is empty and none is running. It yields each item twice: when it
starts, and with its outcome. The caller may append an item to the queue to run it again.
"""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar


@dataclass(frozen=True)
class CellOutcome:
    """Outcome of an item.

    Args:
        summary: its result; None if it failed.
        error: failure in one line.
        details: traceback, or what is known about a process that died.
        again: whether a second attempt may succeed.
    """

    summary: dict[str, Any] | None
    error: str = ""
    details: str = ""
    again: bool = False


Item = TypeVar("Item")
Work = Callable[[Item], CellOutcome]
Told = Generator[tuple[Item, CellOutcome | None], None, None]
Launcher = Callable[[deque[Item], Work[Item]], Told[Item]]
