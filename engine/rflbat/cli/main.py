"""The command ``rflbat``; `flags` says what its words may be.

Every mistake of a user ends in one line on standard error and exit status 2, before any work.
"""

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from rflbat.arguments import lookup
from rflbat.cli.catalog import catalog, show
from rflbat.cli.display import Settings, make_display
from rflbat.cli.doctor import examine
from rflbat.cli.dry_run import plan_run, show_plan
from rflbat.cli.flags import (
    DATA_FOLDER,
    DIRECTORY,
    EVERY,
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
from rflbat.cli.sweep_display import shown
from rflbat.clients.allocator import keep_freed_pages
from rflbat.errors import UserError
from rflbat.experiment.config import Experiment
from rflbat.experiment.recipes import GRIDS
from rflbat.ranks import SINGLE, RankLost, Ranks, from_environment, get_ranks, process_group
from rflbat.report.build import report_run, report_sweep
from rflbat.report.page import NEEDS, available
from rflbat.report.shadow_report import shadow_table
from rflbat.report.tables import closing_table, to_rich
from rflbat.simulation.callbacks import CallbackBase
from rflbat.simulation.follow import follow
from rflbat.simulation.interrupts import second_interrupt_ends_at_once
from rflbat.simulation.loop import Interrupted, resume, run
from rflbat.simulation.provenance import versions
from rflbat.storage.run_folder import RunFolder
from rflbat.storage.schema import CELLS
from rflbat.sweep.cells import CellsFailed, make_cells, sweep
from rflbat.trackers.registry import make_tracker

USAGE = """usage: rflbat COMMAND ...

  run [RECIPE]      run an experiment (default recipe: smoke, on embedded digits, no network)
  resume DIR        go on with an interrupted run
  sweep [RECIPE]    run every combination of a grid: --grid defense=rflbat,krum --seeds 3 --out DIR
  watch DIR         follow a run that another process writes
  report DIR        write the page, figures and tables of a run or of a sweep again
  list [KIND]       datasets, models, attacks, defenses, recipes, trackers, kernels
  show NAME         all about one of them
  doctor            what this installation can do here

torchrun --nproc-per-node N -m rflbat run (or resume) ... runs one simulation in N processes.
rflbat COMMAND --help lists the flags of a command; rflbat --version prints the version."""


def _finish(console: Console, folder: RunFolder, quiet: bool) -> None:
    figures = report_run(folder.path)
    if not quiet:
        console.print(to_rich(closing_table(folder.run(), folder.summary() or {})))
        looked_on = shadow_table(folder.run()["config"]["defense"], folder.rounds(), folder.shadows())
        if looked_on:
            console.print(to_rich(looked_on))
        console.print(f"run folder: {folder.path}", highlight=False, soft_wrap=True, markup=False)
        for line in [*figures, *([] if available() else [NEEDS])]:
            console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)


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
    _finish(console, RunFolder.open(path), flags.quiet)


def _resume(arguments: list[str], console: Console) -> None:
    flags = parse(make_dataclass("resume", [DIRECTORY, TRACK, QUIET]), arguments, "resume")
    if not get_ranks().is_main:
        resume(flags.directory)
        return
    with contextlib.ExitStack() as stack:
        resume(flags.directory, _callbacks(console, flags, Path(flags.directory), stack))
    _finish(console, RunFolder.open(Path(flags.directory)), flags.quiet)


def _sweep(arguments: list[str], console: Console) -> None:
    base, rest, recipe = base_of(arguments)
    flags = parse(flags_of("sweep", base, SWEEP), rest, "sweep [RECIPE]")
    if flags.out is None:
        raise UserError("a sweep needs --out DIR; with the same DIR it goes on where it stopped")
    given = {key.replace("-", "_"): value.split(",") for key, value in pairs_of(flags.grid, "grid").items()}
    grid = {**GRIDS.get(recipe, {}), **given}
    cells = make_cells(experiment_of(flags, base), grid, flags.seeds)
    again = [flags.out, *(["--quiet"] if flags.quiet else [])]
    try:
        with shown(console, len(cells), flags.quiet) as tell:
            sweep(cells, flags.out, flags.jobs, tell, flags.launcher, flags.gpus_per_cell)
    except (Interrupted, KeyboardInterrupt):
        raise KeyboardInterrupt("the same command goes on: finished cells are not run again") from None
    except CellsFailed as error:
        if error.summaries:
            _report(again, console)
        raise
    _report(again, console)


def _report(arguments: list[str], console: Console) -> None:
    flags = parse(make_dataclass("report", [DIRECTORY, QUIET]), arguments, "report")
    path = Path(flags.directory)
    if not (path / CELLS).is_dir():
        _finish(console, RunFolder.open(path), flags.quiet)
        return
    report = report_sweep(path)
    if not flags.quiet:
        table = to_rich(report.table, console.width)
        console.print(table)
        if left := report.table.columns[len(table.columns) :]:
            console.print(f"too wide for here, in the files and on the page: {'; '.join(left)}", highlight=False)
        missing = [] if available() else [NEEDS]
        for line in [*report.files, *missing, *(f"unfinished: {name}" for name in report.unfinished)]:
            console.print(str(line), highlight=False, soft_wrap=True, markup=False)


def _watch(arguments: list[str], console: Console) -> None:
    flags = parse(make_dataclass("watch", [DIRECTORY, EVERY]), arguments, "watch")
    folder = RunFolder.open(Path(flags.directory))
    with make_display(console, False) as display:
        display.on_start(folder.run())
        for record in follow(folder, lambda: time.sleep(max(0.01, flags.every))):
            display.on_round(record)
    summary = folder.summary()
    if summary is None:
        stopped = f"nobody writes this run any more; go on with `rflbat resume {shlex.quote(flags.directory)}`"
        console.print(stopped, highlight=False, soft_wrap=True, markup=False)
    else:
        console.print(to_rich(closing_table(folder.run(), summary)))


def _list(arguments: list[str], console: Console) -> None:
    kinds = catalog()
    if len(arguments) > 1:
        raise UserError(f"`rflbat list [KIND]` takes one kind, not {' '.join(arguments)!r}")
    if arguments and arguments[0] not in {"-h", "--help"}:
        kinds = {arguments[0]: lookup("kind", kinds, arguments[0])}
    for kind, members in kinds.items():
        table = Table(title=kind, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, text in members.items():
            table.add_row(escape(name), escape(text))
        console.print(table)


def _show(arguments: list[str], console: Console) -> None:
    if arguments in (["-h"], ["--help"]):
        console.print(USAGE, markup=False, highlight=False)
        return
    if len(arguments) != 1:
        raise UserError("`rflbat show NAME` takes one name; `rflbat list` gives them")
    console.print(show(arguments[0]), markup=False, highlight=False, soft_wrap=True)


def _doctor(arguments: list[str], console: Console) -> None:
    flags = parse(make_dataclass("doctor", [DATA_FOLDER]), arguments, "doctor")
    table = Table("", "", Column(overflow="fold"), box=None, show_header=False, padding=(0, 2, 0, 0))
    for what, there, line in examine(flags.data_dir):
        table.add_row("yes" if there else "no", escape(what), escape(line))
    console.print(table)


COMMANDS: dict[str, Callable[[list[str], Console], None]] = {
    "run": _run,
    "resume": _resume,
    "sweep": _sweep,
    "watch": _watch,
    "report": _report,
    "list": _list,
    "show": _show,
    "doctor": _doctor,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: words after ``rflbat``; those of the process by default.

    Returns:
        exit status: 0; 1 for a sweep with failed cells, or where another rank is lost; 2 for a mistake of the user, or
            a disk that refuses; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if os.getcwd() not in sys.path:  # last: `--defense mine:noisy` finds mine.py here, and nothing is hidden by it
        sys.path.append(os.getcwd())
    if not words or words[0] in {"-h", "--help"}:
        print(USAGE)
        return 0
    if words[0] == "--version":
        print(f"rflbat {versions()['rflbat']}")
        return 0
    if arguments is None:  # the process is ours: the command line started it
        keep_freed_pages()
    own = get_ranks()
    try:
        command = lookup("command", COMMANDS, words[0])
        with second_interrupt_ends_at_once(), _place(words[0]) as own:
            command(words[1:], Console())
    except UserError as error:
        _say(own, str(error))
        return 2
    except CellsFailed as error:
        print(f"rflbat: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        _say(own, f"{error.filename or 'output'}: {error.strerror or error}")
        return 2
    except RankLost as error:
        _say(own, f"{error}; the last checkpoint is whole, and `rflbat resume` goes on from it")
        return 1
    except Interrupted as stop:
        go_on = f"; go on with `rflbat resume {shlex.quote(str(stop.folder))}`" if stop.folder else ""
        if own.is_main:
            _say(own, f"{stop}{go_on}")
        return 130
    except KeyboardInterrupt as stop:
        if own.is_main:
            _say(own, "; ".join(["interrupted", *stop.args]))
        return 130
    return 0


def _place(command: str) -> contextlib.AbstractContextManager[Ranks]:
    """Join the other ranks, if there are any and the command can be shared."""
    if command in {"run", "resume"}:
        return process_group()
    if command == "sweep" and not from_environment().is_single:
        raise UserError("`rflbat sweep` runs in one process; torchrun is for run and resume")
    return contextlib.nullcontext(SINGLE)


def _say(own: Ranks, text: str) -> None:
    who = "rflbat" if own.is_single else f"rflbat, rank {own.rank} of {own.count}"
    print(f"{who}: {text}", file=sys.stderr)
