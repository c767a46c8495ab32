"""A tracker as a callback of a run: it logs numbers, and a failing tracker does not stop the run."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rflbat.simulation.callbacks import CallbackBase

_log = logging.getLogger(__name__)


class Sink(NamedTuple):
    """Functions through which a run logs to a tracker.

    Args:
        log: called with (name -> number, round).
        finish: called with the numbers of the summary after the last round, or with None if the run stopped early.
    """

    log: Callable[[Mapping[str, float], int], object]
    finish: Callable[[Mapping[str, float] | None], object]


Open = Callable[[str, Path, Mapping[str, Any]], Sink]
"""``open(name of the run, folder for local files, settings)`` starts a run in the tracker."""


class Tracking(CallbackBase):
    """Log every round to a tracker.

    Args:
        title: name of the tracker in messages.
        open_sink: starts the tracker's run.
        name: name of the run.
        folder: for local files of the tracker.
    """

    def __init__(self, title: str, open_sink: Open, name: str, folder: Path) -> None:
        self.title, self.open_sink, self.name, self.folder = title, open_sink, name, folder
        self.sink: Sink | None = None

    def on_start(self, run: Mapping[str, Any]) -> None:
        """Start the tracker's run with the resolved settings."""

        def start() -> None:
            self.sink = self.open_sink(self.name, self.folder, dict(run["config"]))

        self._guarded(start)

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Log the numbers of a round, without those that were not measured."""
        self._guarded(lambda: self.sink and self.sink.log(numbers(record), record["round"]))

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Log the summary and end the tracker's run."""
        self._finish(numbers(summary))

    def close(self) -> None:
        """End the tracker's run if the run stopped early."""
        self._finish(None)

    def _finish(self, summary: Mapping[str, float] | None) -> None:
        sink, self.sink = self.sink, None
        if sink is not None:
            self._guarded(lambda: sink.finish(summary))

    def _guarded(self, call: Callable[[], object]) -> None:
        """Call a tracker; if it fails, log the exception and call it no more."""
        try:
            call()
        except Exception as error:
            self.sink = None
            _log.warning("%s failed and is switched off; the run continues: %s", self.title, error)


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Select the numbers of a record; those of its stages are prefixed with ``stages/``.

    Args:
        record: a line of rounds.jsonl, or a summary.

    Returns:
        name -> number.

    Example:
        >>> numbers({"round": 3, "accuracy": 0.9, "recall": None, "nobody_kept": True, "stages": {"filter1": 2}})
        {'accuracy': 0.9, 'nobody_kept': 1.0, 'stages/filter1': 2.0}
    """
    found = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found.update({f"{name}/{inner}": number for inner, number in numbers(value).items()})
        elif isinstance(value, bool | int | float) and name != "round":
            found[name] = float(value)
    return found
