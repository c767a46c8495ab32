"""Progress of a sweep: a line per finished cell and, on a terminal, a live count of cells done, running, failed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rflbat.sweep.cells import Event


class Tally:
    """Count the cells.

    Args:
        total: cells of the sweep.

    Example:
        >>> str(Tally(3))
        'cells: 0/3 done, 0 running, 0 failed'
    """

    def __init__(self, total: int) -> None:
        self.total, self.done, self.failed = total, 0, 0
        self.running: set[str] = set()

    def add(self, event: Event) -> None:
        """Count an event."""
        self.running.discard(event.cell.name)
        if event.what == "started":
            self.running.add(event.cell.name)
        self.done += event.what == "done"
        self.failed += event.what == "failed"

    def __str__(self) -> str:
        return f"cells: {self.done}/{self.total} done, {len(self.running)} running, {self.failed} failed"


@contextmanager
def sweep_display(console: Console, total: int, quiet: bool) -> Iterator[Callable[[Event], None]]:
    """Open the display of a sweep.

    Args:
        console: output.
        total: cells of the sweep.
        quiet: show nothing.

    Yields:
        the function to call with every event.
    """
    tally = Tally(total)
    live = not quiet and console.is_terminal
    line = Live(console=console, get_renderable=lambda: Text(str(tally), overflow="ellipsis", no_wrap=True))

    def on_event(event: Event) -> None:
        tally.add(event)
        if not quiet and event.what != "started":
            console.print(_line(event, tally), highlight=False, soft_wrap=True, markup=False)

    with line if live else nullcontext():
        yield on_event


def _line(event: Event, tally: Tally) -> str:
    if event.summary is None:
        what = "failed, runs again" if event.what == "again" else "failed"
        return f"{what}  {event.cell.name}  {event.error}"
    success = event.summary["attack_success_rate"]
    rates = f"accuracy {event.summary['accuracy']:.3f}"
    rates += "" if success is None else f"  attack {success:.3f}"
    return f"cell {tally.done}/{tally.total}  {event.cell.name}  {rates}"
