"""Hooks that a run calls: before the first round, after each round, and after the last."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self


class Callback(Protocol):
    """Hooks that a run calls: before the first round, after each round, and after the last."""

    def on_start(self, run: Mapping[str, Any]) -> None:
        """Called once before the first round, with the contents of run.json."""

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Called after a round, with its line of rounds.jsonl, its ``seconds`` and the peak ``memory`` in bytes."""

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Called once after the last round, with the contents of summary.json."""


class CallbackBase:
    """A callback that does nothing, and a context manager that closes it; base class of displays and trackers.

    Example:
        >>> with CallbackBase() as callback:
        ...     callback.on_start({"config": {"rounds": 1}})
        ...     callback.on_round({"round": 0, "accuracy": 0.5, "seconds": 0.1})
        ...     callback.on_end({"accuracy": 0.5})
    """

    def on_start(self, run: Mapping[str, Any]) -> None:
        """Do nothing."""

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Do nothing."""

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Release the callback's resources; calling it again is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
