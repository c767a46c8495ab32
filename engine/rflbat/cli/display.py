"""Progress displays: live on a terminal, plain lines elsewhere, none with ``--quiet``.

Each is a callback and a context manager, which takes the live display down if the run fails. A display writes to the
rich Console it is given and nowhere else.
"""

from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

from rflbat.report.tables import percent
from rflbat.simulation.callbacks import CallbackBase

# Rounds over which the speed is averaged: few enough to forget the slow first ones.
RECENT = 20


class Settings(CallbackBase):
    """Callback that shows the resolved settings before the first round."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_start(self, run: Mapping[str, Any]) -> None:
        """Write one line of them."""
        chosen = ", ".join(f"{name}={value}" for name, value in run["config"].items() if value not in (None, {}))
        self.console.print(chosen, highlight=False, soft_wrap=True, markup=False)


class Pace:
    """Speed and time left, from the seconds that the last rounds took.

    Example:
        >>> pace = Pace(rounds=10)
        >>> pace.add({"round": 3, "seconds": 0.5})
        >>> pace.speed(), pace.left()
        ('2.00 rounds/s', '0:00:03 left')
    """

    def __init__(self, rounds: int, clients: int = 0) -> None:
        self.rounds = rounds
        self.clients = clients
        self.done = 0
        self.recent: deque[float] = deque(maxlen=RECENT)

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one round."""
        self.done = record["round"] + 1
        self.recent.append(record["seconds"])

    def speed(self) -> str:
        """Rounds per second, or seconds per round where a round takes longer than a second."""
        mean = sum(self.recent) / len(self.recent)
        if mean <= 0:
            return "– rounds/s"
        return f"{1 / mean:.2f} rounds/s" if mean < 1 else f"{mean:.1f} s/round"

    def clients_speed(self) -> str:
        """Clients trained per second.

        Example:
            >>> pace = Pace(rounds=10, clients=100)
            >>> pace.add({"round": 0, "seconds": 0.5})
            >>> pace.clients_speed()
            '200 clients/s'
        """
        total = sum(self.recent)
        return f"{self.clients * len(self.recent) / total:.3g} clients/s" if total > 0 and self.clients else ""

    def left(self) -> str:
        """Time left at this speed, as h:mm:ss."""
        mean = sum(self.recent) / len(self.recent)
        return f"{timedelta(seconds=round(mean * (self.rounds - self.done)))} left"


class LiveProgress(CallbackBase):
    """Two live lines: rounds done, speed and time left; below, the last measured rates, who was kept, and the cost.

    Args:
        console: a rich Console on a terminal.
    """

    def __init__(self, console: Console) -> None:
        fields = (TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in ("speed", "left"))
        bar = BarColumn(bar_width=None, table_column=Column(ratio=1))
        self.progress = Progress(TextColumn("round"), MofNCompleteColumn(), bar, *fields, console=console, expand=True)
        self.rates = self.clients = ""
        self.live = Live(console=console, get_renderable=self._render)

    def on_start(self, run: Mapping[str, Any]) -> None:
        """Open the display at no rounds done."""
        self.pace = _pace(run)
        self.task = self.progress.add_task("", total=self.pace.rounds, speed="", left="")
        self.live.start()

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Move the bar; rates stay as they were until the next evaluation."""
        self.pace.add(record)
        if _evaluated(record):
            self.rates = _rates(record)
        self.clients = "  ".join(
            part for part in (_clients(record), self.pace.clients_speed(), _memory(record)) if part
        )
        self.progress.update(self.task, completed=self.pace.done, speed=self.pace.speed(), left=self.pace.left())

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Leave the last state of the lines on the screen."""
        self.close()

    def close(self) -> None:
        """Stop the display and show the cursor again."""
        self.live.stop()

    def _render(self) -> Group:
        line = "  ".join(part for part in (self.rates, self.clients) if part)
        return Group(self.progress.get_renderable(), Text(line, overflow="ellipsis", no_wrap=True))


class PlainProgress(CallbackBase):
    """One plain line per evaluated round, for logs and pipes.

    Args:
        console: where the lines go; they are never wrapped or coloured.

    Example:
        >>> import sys
        >>> display = PlainProgress(Console(file=sys.stdout))
        >>> display.on_start({"config": {"rounds": 10}})
        >>> clients = {"kept": 90, "dropped": 10}
        >>> rates = {"accuracy": 0.873, "attack_success_rate": 0.012}
        >>> display.on_round({"round": 4, "seconds": 0.5} | clients | rates)
        round 5/10  accuracy 87.3 %  attack success 1.2 %  kept 90 dropped 10  2.00 rounds/s  0:00:02 left
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_start(self, run: Mapping[str, Any]) -> None:
        """Remember the number of rounds."""
        self.pace = _pace(run)

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Write the line, if the round was evaluated."""
        self.pace.add(record)
        if _evaluated(record):
            done = f"round {self.pace.done}/{self.pace.rounds}"
            line = "  ".join((done, _rates(record), _clients(record), self.pace.speed(), self.pace.left()))
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def make_display(console: Console, quiet: bool) -> CallbackBase:
    """The display that fits: none when quiet, live on a terminal, plain lines elsewhere.

    Example:
        >>> import io
        >>> type(make_display(Console(file=io.StringIO()), quiet=False)).__name__
        'PlainProgress'
    """
    if quiet:
        return CallbackBase()
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


def _pace(run: Mapping[str, Any]) -> Pace:
    config = run["config"]
    return Pace(config["rounds"], config.get("participants") or config.get("clients") or 0)


def _memory(record: Mapping[str, Any]) -> str:
    return f"{record['memory'] / 2**30:.2f} GiB" if record.get("memory") else ""


def _evaluated(record: Mapping[str, Any]) -> bool:
    return record.get("accuracy") is not None


def _rates(record: Mapping[str, Any]) -> str:
    # An untargeted attack has no success rate.
    success = record.get("attack_success_rate")
    accuracy = f"accuracy {percent(record['accuracy'])}"
    return accuracy if success is None else f"{accuracy}  attack success {percent(success)}"


def _clients(record: Mapping[str, Any]) -> str:
    text = f"kept {record['kept']} dropped {record['dropped']}"
    text = f"{text} ({record['nonfinite']} non-finite)" if record.get("nonfinite") else text
    return f"{text}, update discarded" if record.get("move_discarded") else text
