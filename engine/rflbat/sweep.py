"""Many runs: the product of settings and seeds, each cell a run folder, finished cells never run twice."""

import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from rflbat.config import Experiment
from rflbat.errors import UserError
from rflbat.results.folder import RUN, RunFolder
from rflbat.results.report import CELLS
from rflbat.simulation import resume, run
from rflbat.world import check, resolve

ARGUMENTS = {"dataset_arg.": "dataset_args", "defense_arg.": "defense_args", "attack_arg.": "attack_args"}


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Args:
        name: its settings and seed, the name of its folder.
        experiment: its configuration.
    """

    name: str
    experiment: Experiment


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


def run_cell(cell: Cell, out: Path) -> dict[str, Any]:
    """Run a cell, go on with it, or read what it gave.

    Args:
        cell: what to run.
        out: folder of the sweep.

    Returns:
        its summary.

    Raises:
        UserError: its folder holds a run with other settings.
    """
    path = out / CELLS / cell.name
    if not (path / RUN).exists():
        return run(cell.experiment, path).summary
    folder = RunFolder.open(path)
    found, wanted = folder.run()["config"], resolve(cell.experiment).to_dict()
    wanted |= {key: found.get(key) for key in ("model", "attack") if wanted[key] is None}
    if differing := sorted(key for key in wanted if found.get(key) != wanted[key]):
        raise UserError(f"{path} holds a run with another {', '.join(differing)}; give the sweep another --out")
    return folder.summary() or resume(path).summary


def _start_worker(parent: int) -> None:
    """Compute on one thread, and end with the sweep: a worker that outlives it would write into cells of the next."""
    torch.set_num_threads(1)
    Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    signal.raise_signal(signal.SIGTERM)


def _results(cells: Sequence[Cell], out: Path, jobs: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    if jobs == 1:
        for cell in cells:
            yield cell, run_cell(cell, out)
        return
    # spawn: a forked child of a process that has used threads or CUDA may hang.
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),)
    ) as pool:
        waiting = {pool.submit(run_cell, cell, out): cell for cell in cells}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def sweep(
    cells: Sequence[Cell],
    out: str | Path,
    jobs: int = 1,
    on_cell: Callable[[Cell, dict[str, Any]], None] = lambda cell, summary: None,
) -> dict[str, dict[str, Any]]:
    """Run all cells; those that are finished are skipped, an interrupted one goes on from its checkpoint.

    Args:
        cells: what ``make_cells`` gave.
        out: folder of the sweep; a cell lies in ``out/cells/NAME``.
        jobs: processes; with more than one each computes on one thread.
        on_cell: told of each cell when its result is there.

    Returns:
        cell name -> summary.

    Raises:
        UserError: settings do not fit the data (told before any cell runs), a folder holds a run with other settings,
            or ``jobs`` is below 1.
    """
    if jobs < 1:
        raise UserError(f"jobs={jobs} is out of range; allowed: at least 1")
    for cell in cells:
        check(cell.experiment)
    summaries = {}
    for cell, summary in _results(cells, Path(out), jobs):
        summaries[cell.name] = summary
        on_cell(cell, summary)
    return summaries
