"""Many runs: the product of settings and seeds, each cell a run folder, finished cells never run twice."""

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
from rflbat.round.setup import check, resolve
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
        name: its settings and seed, the name of its folder.
        experiment: its configuration.
    """

    name: str
    experiment: Experiment


@dataclass(frozen=True)
class Event:
    """What is told of a cell.

    Args:
        what: ``started``, ``done``, ``again`` (failed, to be tried again) or ``failed``.
        cell: which cell.
        summary: of a cell that is done.
        error: of one that failed, in one line.
    """

    what: Literal["started", "done", "again", "failed"]
    cell: Cell
    summary: dict[str, Any] | None = None
    error: str = ""


class CellsFailed(Stopped):
    """A sweep is over, and some of its cells have no result.

    Args:
        out: folder of the sweep.
        summaries: those of the finished cells.
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
    """Apply one combination: settings first, then single parameters on top of what is left of the base's."""
    single = {key: value for key, value in chosen.items() if key.startswith(tuple(ARGUMENTS))}
    changed = base.changed({key: value for key, value in chosen.items() if key not in single})
    for prefix, field in ARGUMENTS.items():
        given = {key.removeprefix(prefix): value for key, value in single.items() if key.startswith(prefix)}
        changed = changed.changed({field: {**getattr(changed, field), **given}})
    return changed


def make_cells(base: Experiment, grid: Mapping[str, Sequence[object]], seeds: int) -> list[Cell]:
    """List every combination of the grid, for every seed, the seeds of one setting side by side.

    Args:
        base: settings that the grid does not name.
        grid: setting -> values, text allowed; ``defense_arg.NAME``, ``attack_arg.NAME``, ``dataset_arg.NAME``.
        seeds: number of seeds, at least 1: ``base.seed``, ``base.seed + 1``, ...

    Returns:
        the cells; all are checked, so that a mistake shows before any work.

    Raises:
        UserError: an unknown setting, a value that does not fit, or two cells alike.

    Example:
        >>> [cell.name for cell in make_cells(Experiment(), {"malicious": [0.1, 0.5]}, 1)]
        ['malicious=0.1,seed=0', 'malicious=0.5,seed=0']
    """
    if seeds < 1:
        raise UserError(f"seeds={seeds} is out of range; allowed: at least 1")
    if "seed" in grid:
        raise UserError("the grid names the seed; give a first seed and a number of seeds instead")
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
            raise UserError(f"the grid has a cell of the same {key} twice: {twice}; every value may stand there once")
    return cells


def check_cell(cell: Cell, out: Path) -> Experiment:
    """See whether a cell can run, before any does.

    Args:
        cell: what is to run.
        out: folder of the sweep.

    Returns:
        its settings, with the defaults of this machine.

    Raises:
        UserError: settings do not fit the data, or its folder holds a run with other settings.
    """
    check(cell.experiment)
    resolved, path = resolve(cell.experiment), out / CELLS / cell.name
    if (path / RUN).exists():
        found = recorded(RunFolder.open(path).run()).to_dict()
        wanted = resolved.to_dict()
        wanted |= {key: found.get(key) for key in ("model", "attack") if wanted[key] is None}
        if differing := sorted(key for key in wanted if found.get(key) != wanted[key]):
            raise UserError(f"{path} holds a run with another {', '.join(differing)}; give the sweep another --out")
    return resolved


def finished(cell: Cell, out: Path) -> dict[str, Any] | None:
    """Give the summary of a cell that is finished, else None."""
    path = out / CELLS / cell.name
    return RunFolder.open(path).summary() if (path / RUN).exists() else None


def run_cell(cell: Cell, out: Path) -> dict[str, Any]:
    """Run a cell, go on with it, or read what it gave.

    Args:
        cell: what to run.
        out: folder of the sweep.

    Returns:
        its summary.

    Raises:
        UserError: settings do not fit, or its folder holds a run with other settings.
    """
    check_cell(cell, out)
    path = out / CELLS / cell.name
    if not (path / RUN).exists():
        return run(cell.experiment, path).summary
    return finished(cell, out) or resume(path).summary


def attempt(cell: Cell, out: Path) -> CellOutcome:
    """Run a cell, and tell of its failure instead of raising it.

    Args:
        cell: what to run.
        out: folder of the sweep.

    Returns:
        its summary or its failure; a mistake of the user would only be made again.

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
    """Write why a cell failed into its folder, behind the first attempt where it is the second."""
    path = folder / FAILURE
    # A run of another process is not disturbed, and a disk that refuses is told of in the closing line.
    with suppress(UserError, OSError), sole_writer(folder):
        earlier = path.read_text(encoding="utf-8") + "\n" if number > 1 and path.is_file() else ""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        with replacing(path) as temporary:
            text = f"{earlier}attempt {number}, {when}: {outcome.error}\n\n{outcome.details.rstrip()}\n"
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _run_all(cells: Sequence[Cell], out: Path, launch: Launcher[Cell], tell: Callable[[Event], None]) -> None:
    """Run the cells in any order; one that fails is put back once, behind the others."""
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
    """Run all cells; those that are finished are skipped, an interrupted one goes on from its checkpoint.

    A cell that fails does not stop the others. Its traceback is written to ``out/cells/NAME/failure.txt``, and it gets
    a second attempt, unless the failure is a mistake of the user; what it overcame stays in ``failure.overcome.txt``.

    Args:
        cells: what ``make_cells`` gave.
        out: folder of the sweep; a cell lies in ``out/cells/NAME``.
        jobs: processes of the launcher ``local``; with more than one each computes on one thread, pinned to its share
            of the cores (Linux) or to a GPU. A single one is this process, and a crash of it ends the sweep.
        on_event: told of each cell when it starts, fails, and when its result is there.
        launcher: ``local``, or ``ray`` for the tasks of a Ray cluster.
        gpus_per_cell: GPUs of a Ray task, see ``make_launcher``.

    Returns:
        cell name -> summary, in the order of ``cells``.

    Raises:
        UserError: settings do not fit the data, a folder holds a run with other settings or cannot be made (all told
            before any cell runs), or the launcher does not take these numbers.
        CellsFailed: the others are finished.
    """
    devices = {check_cell(cell, Path(out)).device for cell in cells}
    launch = make_launcher(launcher, jobs, gpus_per_cell, "cuda" if "cuda" in devices else "cpu")
    try:
        (Path(out) / CELLS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot make the folder of a sweep here: {error.strerror}") from error
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
