"""A tracker as the callback of a run: it is told numbers, and if it fails the run goes on without it."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rflbat.simulation.callbacks import CallbackBase

_log = logging.getLogger(__name__)


class Sink(NamedTuple):
    """Where a tracker sends what it is told.

    Args:
        log: (name -> number, round).
        finish: told the numbers of the summary after the last round, or None of a run that stopped early.
    """

    log: Callable[[Mapping[str, float], int], object]
    finish: Callable[[Mapping[str, float] | None], object]


Open = Callable[[str, Path, Mapping[str, Any]], Sink]
"""``open(name of the run, folder for local files, settings)`` starts a run in the tracker."""


class Tracking(CallbackBase):
    """Tells a tracker of every round.

    Args:
        title: the tracker, for messages.
        open_sink: starts the tracker's run.
        name: of the run.
        folder: for files of the tracker that lie on this machine.
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
        """Send the numbers of a round; what was not measured is left out."""
        self._guarded(lambda: self.sink and self.sink.log(numbers(record), record["round"]))

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Send the summary and end the tracker's run."""
        self._finish(numbers(summary))

    def close(self) -> None:
        """End the tracker's run where the run stopped early."""
        self._finish(None)

    def _finish(self, summary: Mapping[str, float] | None) -> None:
        sink, self.sink = self.sink, None
        if sink is not None:
            self._guarded(lambda: sink.finish(summary))

    def _guarded(self, call: Callable[[], object]) -> None:
        """Call a tracker; whatever it raises is logged, and it is told nothing more."""
        try:
            call()
        except Exception as error:
            self.sink = None
            _log.warning("%s failed and is told nothing more; the run goes on: %s", self.title, error)


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Pick what a tracker can draw: the numbers of a record, those of its stages with the stage's name in front.

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
