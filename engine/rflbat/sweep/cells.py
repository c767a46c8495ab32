"""A sweep: all combinations of settings and seeds, each a cell with its own run folder. Finished cells never rerun."""

import itertools
import os
import re
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rflbat.errors import Stopped, UserError
from rflbat.experiment.config import METHODS, Experiment
from rflbat.round.setup import check_data, check_start, resolve
from rflbat.simulation.loop import Interrupted, recorded, resume, run
from rflbat.storage.atomic import replacing
from rflbat.storage.lock import sole_writer
from rflbat.storage.run_folder import RUN, RunFolder
from rflbat.storage.schema import CELLS
from rflbat.sweep.launchers import make_launcher
from rflbat.sweep.work import CellOutcome, Launcher

FAILURE = "failure.txt"
OVERCOME = "failure.overcome.txt"
ARGUMENTS = {f"{setting}_arg.": f"{setting}_args" for setting in METHODS}


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Args:
        name: its settings and seed; also the name of its folder.
        experiment: its configuration.
    """

    name: str
    experiment: Experiment


@dataclass(frozen=True)
class Event:
    """A change in the state of a cell.

    Args:
        what: ``started``, ``done``, ``again`` (failed, with another attempt to follow) or ``failed``.
        cell: the cell.
        summary: summary of a cell that is done.
        error: failure in one line, of a cell that failed.
    """

    what: Literal["started", "done", "again", "failed"]
    cell: Cell
    summary: dict[str, Any] | None = None
    error: str = ""


class CellsFailed(Stopped):
    """A sweep is complete, but some of its cells have no result.

    Args:
        out: folder of the sweep.
        summaries: summaries of the finished cells.
        failed: cell name -> failure in one line.
    """

    def __init__(self, out: Path, summaries: dict[str, dict[str, Any]], failed: dict[str, str]) -> None:
        super().__init__(out, summaries, failed)
        self.out = out
        self.summaries = summaries
        self.failed = failed

    def __str__(self) -> str:
        which = "; ".join(f"{name}: {error}" for name, error in self.failed.items())
        total, where = len(self.failed) + len(self.summaries), self.out / CELLS / "NAME" / FAILURE
        return f"{len(self.failed)} of {total} cells failed ({which}); rerun the command to retry them; see {where}"


def _experiment(base: Experiment, chosen: Mapping[str, object]) -> Experiment:
    """Apply one combination of the grid: settings first, then single parameters on top of the base's remaining ones."""
    single = {key: value for key, value in chosen.items() if key.startswith(tuple(ARGUMENTS))}
    changed = base.changed({key: value for key, value in chosen.items() if key not in single})
    for prefix, field in ARGUMENTS.items():
        given = {key.removeprefix(prefix): value for key, value in single.items() if key.startswith(prefix)}
        changed = changed.changed({field: {**getattr(changed, field), **given}})
    return changed


def make_cells(base: Experiment, grid: Mapping[str, Sequence[object]], seeds: int) -> list[Cell]:
    """List every combination of the grid for every seed; the seeds of one combination are adjacent.

    Args:
        base: values of the settings that the grid does not name.
        grid: setting -> values, as objects or text; also ``defense_arg.NAME``, ``attack_arg.NAME`` and
            ``dataset_arg.NAME``.
        seeds: number of seeds, at least 1: ``base.seed``, ``base.seed + 1``, ...

    Returns:
        the cells, all validated, so that a mistake is reported before any run.

    Raises:
        UserError: an unknown setting, an invalid value, or two equal cells.

    Example:
        >>> [cell.name for cell in make_cells(Experiment(), {"malicious": [0.1, 0.5]}, 1)]
        ['malicious=0.1,seed=0', 'malicious=0.5,seed=0']
    """
    if seeds < 1:
        raise UserError(f"seeds={seeds} is out of range; allowed: at least 1")
    if "seed" in grid:
        raise UserError("the grid must not contain seed; set the first seed and the number of seeds instead")
    cells: list[Cell] = []
    for values in itertools.product(*grid.values()):
        for seed in range(base.seed, base.seed + seeds):
            chosen = {**dict(zip(grid, values, strict=True)), "seed": seed}
            name = ",".join(f"{key}={value}" for key, value in chosen.items())
            cells.append(Cell(re.sub(r"[^\w.,=+-]", "_", name), _experiment(base, chosen)))
    for field, key in (("name", "name"), ("experiment", "settings")):
        values_seen = [repr(getattr(cell, field)) for cell in cells]
        if len(set(values_seen)) < len(cells):
            twice = next(cell.name for at, cell in enumerate(cells) if values_seen[at] in values_seen[:at])
            raise UserError(f"the grid contains a cell with the same {key} twice: {twice}; list every value once")
    return cells


def check_cell(cell: Cell, out: Path) -> Experiment:
    """Check whether a cell can run, before any cell runs.

    Args:
        cell: the cell.
        out: folder of the sweep.

    Returns:
        its settings, with the defaults of this machine.

    Raises:
        UserError: settings do not fit the data, or the cell's folder contains a run with other settings.
    """
    check_data(cell.experiment)
    resolved, path = resolve(cell.experiment), out / CELLS / cell.name
    if (path / RUN).exists():
        found = recorded(RunFolder.open(path).run()).to_dict()
        wanted = resolved.to_dict()
        wanted |= {key: found.get(key) for key in ("model", "attack") if wanted[key] is None}
        if differing := sorted(key for key in wanted if found.get(key) != wanted[key]):
            raise UserError(f"{path} holds a run with another {', '.join(differing)}; use another --out")
    else:
        check_start(resolved)
    return resolved


def finished(cell: Cell, out: Path) -> dict[str, Any] | None:
    """Return the summary of a finished cell, None for an unfinished one."""
    path = out / CELLS / cell.name
    return RunFolder.open(path).summary() if (path / RUN).exists() else None


def run_cell(cell: Cell, out: Path) -> dict[str, Any]:
    """Run a cell, resume it, or read its result if it is finished.

    Args:
        cell: the cell.
        out: folder of the sweep.

    Returns:
        its summary.

    Raises:
        UserError: settings do not fit the data, or the cell's folder contains a run with other settings.
    """
    check_cell(cell, out)
    path = out / CELLS / cell.name
    if not (path / RUN).exists():
        return run(cell.experiment, path).summary
    return finished(cell, out) or resume(path).summary


def attempt(cell: Cell, out: Path) -> CellOutcome:
    """Run a cell and return a failure instead of raising it.

    Args:
        cell: the cell.
        out: folder of the sweep.

    Returns:
        its summary or its failure; only a mistake of the user is not worth another attempt.

    Raises:
        Interrupted: Ctrl-C; a checkpoint was written.
    """
    try:
        return CellOutcome(run_cell(cell, out))
    except Interrupted:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        line = said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"
        return CellOutcome(None, line, traceback.format_exc(), again=not isinstance(error, UserError))


def _record(folder: Path, outcome: CellOutcome, number: int) -> None:
    """Write a cell's failure into its folder; a second failure is appended to the first."""
    path = folder / FAILURE
    # Leave a folder alone that another process is writing; a disk error shows in the closing line anyway.
    with suppress(UserError, OSError), sole_writer(folder):
        earlier = path.read_text(encoding="utf-8") + "\n" if number > 1 and path.is_file() else ""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        with replacing(path) as temporary:
            text = f"{earlier}attempt {number}, {when}: {outcome.error}\n\n{outcome.details.rstrip()}\n"
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _run_all(cells: Sequence[Cell], out: Path, launch: Launcher[Cell], tell: Callable[[Event], None]) -> None:
    """Run the cells in any order; a cell that fails is queued once more, behind the others."""
    failures = Counter[str]()
    todo = deque(cells)
    with closing(launch(todo, partial(attempt, out=out))) as told:
        for cell, outcome in told:
            folder = out / CELLS / cell.name
            if outcome is None:
                tell(Event("started", cell))
            elif outcome.summary is not None:
                if (folder / FAILURE).is_file():
                    os.replace(folder / FAILURE, folder / OVERCOME)
                tell(Event("done", cell, summary=outcome.summary))
            else:
                failures[cell.name] += 1
                _record(folder, outcome, failures[cell.name])
                again = outcome.again and failures[cell.name] == 1
                if again:
                    todo.append(cell)
                tell(Event("again" if again else "failed", cell, error=outcome.error))


def sweep(
    cells: Sequence[Cell],
    out: str | Path,
    jobs: int = 1,
    on_event: Callable[[Event], None] = lambda event: None,
    launcher: str = "local",
    gpus_per_cell: float | None = None,
) -> dict[str, dict[str, Any]]:
    """Run all cells; finished cells are skipped, and an interrupted one continues from its checkpoint.

    A cell that fails does not stop the others. Its traceback is written to ``out/cells/NAME/failure.txt``, and the cell
    gets a second attempt unless the failure is a mistake of the user. If the second attempt succeeds, the file is
    renamed to ``failure.overcome.txt``.

    Args:
        cells: result of ``make_cells``.
        out: folder of the sweep; each cell is stored in ``out/cells/NAME``.
        jobs: number of processes of the launcher ``local``. Each of several processes computes on one thread and is
            pinned to its share of the cores (Linux) or to a GPU. A single job runs in this process, so if it crashes,
            the sweep ends.
        on_event: called when a cell starts, fails and finishes.
        launcher: ``local``, or ``ray`` for the tasks of a Ray cluster.
        gpus_per_cell: GPUs of a Ray task, see ``make_launcher``.

    Returns:
        cell name -> summary, in the order of ``cells``.

    Raises:
        UserError: settings do not fit the data, a folder contains a run with other settings or cannot be created (all
            checked before any cell runs), or the launcher does not accept these numbers.
        CellsFailed: some cells failed; all others are finished.
    """
    devices = {check_cell(cell, Path(out)).device for cell in cells}
    launch = make_launcher(launcher, jobs, gpus_per_cell, "cuda" if "cuda" in devices else "cpu")
    try:
        (Path(out) / CELLS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot create the folder of the sweep: {error.strerror}") from error
    summaries: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}

    def tell(event: Event) -> None:
        if event.summary is not None:
            summaries[event.cell.name] = event.summary
        elif event.what == "failed":
            failed[event.cell.name] = event.error
        on_event(event)

    left = []
    for cell in cells:
        summary = finished(cell, Path(out))
        if summary is None:
            left.append(cell)
        else:
            tell(Event("done", cell, summary=summary))
    _run_all(left, Path(out).absolute(), launch, tell)
    ordered = {cell.name: summaries[cell.name] for cell in cells if cell.name in summaries}
    if failed:
        raise CellsFailed(Path(out), ordered, failed)
    return ordered
