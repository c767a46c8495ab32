"""The subcommands that train: ``run``, ``resume`` and ``sweep``."""

import contextlib
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from rflbat.cli.display import Settings, make_display
from rflbat.cli.dry_run import plan_run, show_plan
from rflbat.cli.flags import (
    DIRECTORY,
    FILE,
    QUIET,
    RUN,
    SWEEP,
    TRACK,
    base_of,
    experiment_of,
    flags_of,
    pairs_of,
    parse,
)
from rflbat.cli.sweep_display import sweep_display
from rflbat.cli.views import report_command, show_result
from rflbat.errors import UserError
from rflbat.experiment.config import Experiment
from rflbat.experiment.recipes import RECIPES
from rflbat.ranks import from_environment, get_ranks, process_group
from rflbat.simulation.callbacks import CallbackBase
from rflbat.simulation.interrupts import second_interrupt_ends_at_once
from rflbat.simulation.loop import Interrupted, resume, run
from rflbat.storage.run_folder import RunFolder
from rflbat.sweep.cells import CellsFailed, make_cells, sweep
from rflbat.trackers.registry import make_tracker


def run_command(arguments: list[str]) -> None:
    """Run an experiment: ``rflbat run``.

    Args:
        arguments: words after the subcommand.

    Raises:
        UserError: a mistake of the user.
        Stopped: Ctrl-C, or another rank is lost.
    """
    with second_interrupt_ends_at_once(), process_group():
        _run(arguments, Console())


def resume_command(arguments: list[str]) -> None:
    """Continue an interrupted run: ``rflbat resume``; arguments and errors as ``run_command``."""
    with second_interrupt_ends_at_once(), process_group():
        _resume(arguments, Console())


def sweep_command(arguments: list[str]) -> None:
    """Run every combination of a grid: ``rflbat sweep``; arguments and errors as ``run_command``."""
    if not from_environment().is_single:
        raise UserError("`rflbat sweep` runs in one process; torchrun is for run and resume")
    with second_interrupt_ends_at_once():
        _sweep(arguments, Console())


def _new_folder(experiment: Experiment) -> Path:
    name = f"{experiment.dataset}-{experiment.defense}-{experiment.seed}"
    numbers = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in range(1, 10**6))
    return next(path for path in numbers if not path.exists())


def _callbacks(console: Console, flags: Any, path: Path, stack: contextlib.ExitStack) -> list[CallbackBase]:
    """Open the display and the trackers; the stack closes them whatever happens."""
    trackers = [make_tracker(name, path.name, path) for name in dict.fromkeys(flags.track)]
    return [stack.enter_context(each) for each in (make_display(console, flags.quiet), *trackers)]


def _run(arguments: list[str], console: Console) -> None:
    base, rest, _ = base_of(arguments)
    flags = parse(flags_of("run", base, RUN), rest, "run [RECIPE]")
    experiment = experiment_of(flags, base)
    if flags.dry_run:
        rows = plan_run(experiment)
        if get_ranks().is_main:
            show_plan(console, rows)
        return
    if not get_ranks().is_main:
        run(experiment)
        return
    path = Path(flags.out) if flags.out else _new_folder(experiment)
    with contextlib.ExitStack() as stack:
        shown = _callbacks(console, flags, path, stack)
        run(experiment, path, shown if flags.quiet else [Settings(console), *shown])
    show_result(console, RunFolder.open(path), flags.quiet)


def _resume(arguments: list[str], console: Console) -> None:
    flags = parse(make_dataclass("resume", [DIRECTORY, TRACK, QUIET]), arguments, "resume")
    if not get_ranks().is_main:
        resume(flags.directory)
        return
    with contextlib.ExitStack() as stack:
        resume(flags.directory, _callbacks(console, flags, Path(flags.directory), stack))
    show_result(console, RunFolder.open(Path(flags.directory)), flags.quiet)


def _sweep(arguments: list[str], console: Console) -> None:
    base, rest, recipe = base_of(arguments)
    flags = parse(flags_of("sweep", base, SWEEP), rest, "sweep [RECIPE]")
    if flags.out is None:
        raise UserError("a sweep needs --out DIR; with the same DIR a stopped sweep continues")
    given = {key.replace("-", "_"): value.split(",") for key, value in pairs_of(flags.grid, "grid").items()}
    grid = {**RECIPES[recipe].grid, **given}
    cells = make_cells(experiment_of(flags, base), grid, flags.seeds)
    again = [flags.out, *(["--quiet"] if flags.quiet else [])]
    try:
        with sweep_display(console, len(cells), flags.quiet) as report:
            sweep(cells, flags.out, flags.jobs, report, flags.launcher, flags.gpus_per_cell)
    except (Interrupted, KeyboardInterrupt):
        raise KeyboardInterrupt("rerun the same command to continue; finished cells are skipped") from None
    except CellsFailed as error:
        if error.summaries:
            report_command(again)
        raise
    report_command(again)


def export_command(arguments: list[str]) -> None:
    """Write a run's global model as a safetensors file by parameter name: ``rflbat export``.

    Args:
        arguments: words after the subcommand.

    Raises:
        UserError: a mistake of the user.
    """
    flags = parse(make_dataclass("export", [DIRECTORY, FILE]), arguments, "export")
    from rflbat.simulation.export import export

    Console().print(f"wrote {export(flags.directory, flags.file)}", highlight=False, soft_wrap=True, markup=False)
