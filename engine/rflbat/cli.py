"""The command ``rflbat``; the only file that knows tyro.

Every mistake of a user ends in one line on standard error and exit status 2, before any work.
"""

import contextlib
import io
import os
import re
import shlex
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rflbat.catalog import catalog, show
from rflbat.config import Experiment
from rflbat.doctor import examine
from rflbat.dry_run import plan_run, show_plan
from rflbat.errors import UserError, nearest
from rflbat.progress import Settings, Silence, choose
from rflbat.ranks import ALONE, RankLost, Ranks, current, joined, launched
from rflbat.reading import read_bounded
from rflbat.recipes import GRIDS, RECIPES
from rflbat.registry import lookup
from rflbat.results.folder import RunFolder
from rflbat.results.page import NEEDS, available
from rflbat.results.report import CELLS, report_run, report_sweep
from rflbat.results.shadow_report import shadow_table
from rflbat.results.tables import closing_table, to_rich
from rflbat.signals import second_interrupt_ends_at_once
from rflbat.simulation import Interrupted, resume, run
from rflbat.sweep import CellsFailed, make_cells, sweep
from rflbat.sweep_progress import shown
from rflbat.trackers.registry import make_tracker
from rflbat.watching import follow
from rflbat.world import versions

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

REPEATED = {
    "dataset_args": "dataset_arg",
    "defense_args": "defense_arg",
    "attack_args": "attack_arg",
    "kernels": "kernels",
}
"""Fields of a configuration that are mappings, and the flag that adds one entry."""

Texts = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


def _flag(kind: Any, text: str) -> Any:
    return Annotated[kind, tyro.conf.arg(help=text)]


def _flags(name: str, base: Experiment, extra: Sequence[tuple[str, Any, Any]]) -> type:
    """Make the flags of a command: one for each setting, with the recipe's value as default, and further ones."""
    wanted = []
    for item in fields(Experiment):
        text = item.metadata["help"]
        if item.name in REPEATED:
            wanted.append((REPEATED[item.name], _flag(Texts, text), field(default=())))
        else:
            wanted.append((item.name, _flag(item.type, text), field(default=getattr(base, item.name))))
    return make_dataclass(name, [*wanted, *((key, kind, field(default=value)) for key, kind, value in extra)])


def _said(box: str) -> str:
    """Give what tyro's box says in one line: no frame, no title, no help; it may be drawn in ASCII and wrapped."""
    lines = (line.strip("│|+╭╮╰╯─- ") for line in box.splitlines()[1:])
    text = " ".join(line for line in lines if line)
    return re.split(r" ?(?:Argument helptext|For full helptext|Got errors)", text)[0]


def _parse(kind: Any, arguments: Sequence[str], command: str) -> Any:
    """Parse flags; what tyro says of a mistake in a box becomes one line."""
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            parsed, unknown = tyro.cli(
                kind,
                args=list(arguments),
                prog=f"rflbat {command}",
                return_unknown_args=True,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_said(captured.getvalue())) from None
    if unknown:
        known = [f"--{item.name.replace('_', '-')}" for item in fields(kind)]
        word = unknown[0].partition("=")[0]
        what = f"unknown flag {word}{nearest(word, known)}" if word.startswith("-") else f"unexpected '{word}'"
        raise UserError(f"{what}; `rflbat {command} --help` lists what is allowed")
    return parsed


def _pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise UserError(f"--{flag} {text!r} is not of the form name=value")
        if key in pairs:
            raise UserError(f"--{flag} names {key!r} twice")
        pairs[key] = value
    return pairs


def _read_toml(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bounded(Path(path), 2**20).decode())
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"--config {path}: not TOML: {error}") from None


def _base(arguments: Sequence[str]) -> tuple[Experiment, list[str], str]:
    """Read the recipe, which comes first, and the file of --config, which overrides it; flags override both."""
    rest, recipe = list(arguments), "smoke"
    if rest and not rest[0].startswith("-"):
        recipe = rest.pop(0)
    base = lookup("recipe", RECIPES, recipe)()
    paths = [rest[at + 1] for at, word in enumerate(rest[:-1]) if word == "--config"]
    paths += [word.removeprefix("--config=") for word in rest if word.startswith("--config=")]
    for path in paths:
        base = base.changed(_read_toml(path))
    return base, rest, recipe


def _experiment(flags: Any, base: Experiment) -> Experiment:
    settings = {item.name: getattr(flags, item.name) for item in fields(Experiment) if item.name not in REPEATED}
    chosen = base.changed(settings)
    single = {name: _pairs(getattr(flags, flag), flag.replace("_", "-")) for name, flag in REPEATED.items()}
    return chosen.changed({name: {**getattr(chosen, name), **given} for name, given in single.items()})


DIRECTORY = ("directory", tyro.conf.Positional[str])
CONFIG = ("config", _flag(str | None, "TOML file of settings, overridden by flags"), None)
TRACK = ("track", _flag(Texts, "tracker that is told of every round, of `rflbat list trackers`; repeatable"), ())
QUIET = ("quiet", _flag(bool, "no progress display, no closing table"), False)


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


def _callbacks(console: Console, flags: Any, path: Path, stack: contextlib.ExitStack) -> list[Silence]:
    """Open the display and the trackers; the stack closes them whatever happens."""
    trackers = [make_tracker(name, path.name, path) for name in dict.fromkeys(flags.track)]
    return [stack.enter_context(each) for each in (choose(console, flags.quiet), *trackers)]


def _run(arguments: list[str], console: Console) -> None:
    base, rest, _ = _base(arguments)
    out = ("out", _flag(str | None, "run folder to create; default runs/DATASET-DEFENSE-SEED"), None)
    dry = (
        "dry_run",
        _flag(bool, "print settings, back end, chunk and memory of a round; run and write nothing"),
        False,
    )
    flags = _parse(_flags("run", base, [out, CONFIG, TRACK, QUIET, dry]), rest, "run [RECIPE]")
    experiment = _experiment(flags, base)
    if flags.dry_run:
        rows = plan_run(experiment)
        if current().first:
            show_plan(console, rows)
        return
    if not current().first:
        run(experiment)
        return
    path = Path(flags.out) if flags.out else _new_folder(experiment)
    with contextlib.ExitStack() as stack:
        shown = _callbacks(console, flags, path, stack)
        run(experiment, path, shown if flags.quiet else [Settings(console), *shown])
    _finish(console, RunFolder.open(path), flags.quiet)


def _resume(arguments: list[str], console: Console) -> None:
    flags = _parse(make_dataclass("resume", [DIRECTORY, TRACK, QUIET]), arguments, "resume")
    if not current().first:
        resume(flags.directory)
        return
    with contextlib.ExitStack() as stack:
        resume(flags.directory, _callbacks(console, flags, Path(flags.directory), stack))
    _finish(console, RunFolder.open(Path(flags.directory)), flags.quiet)


def _sweep(arguments: list[str], console: Console) -> None:
    base, rest, recipe = _base(arguments)
    extra = [
        ("grid", _flag(Texts, "setting=value,value,...; repeatable; defense_arg.NAME for a parameter"), ()),
        ("seeds", _flag(int, "seeds of every combination"), 1),
        ("jobs", _flag(int, "processes, each on one thread and pinned to its cores or GPU when more than one"), 1),
        (
            "launcher",
            _flag(str, "local: processes here; ray: tasks of the cluster of RAY_ADDRESS, or of Ray here"),
            "local",
        ),
        (
            "gpus_per_cell",
            _flag(float | None, "GPUs of a Ray task, a fraction allowed; default 1 on cuda, else 0"),
            None,
        ),
        ("out", _flag(str | None, "folder of the sweep; needed"), None),
        CONFIG,
        QUIET,
    ]
    flags = _parse(_flags("sweep", base, extra), rest, "sweep [RECIPE]")
    if flags.out is None:
        raise UserError("a sweep needs --out DIR; with the same DIR it goes on where it stopped")
    given = {key.replace("-", "_"): value.split(",") for key, value in _pairs(flags.grid, "grid").items()}
    grid = {**GRIDS.get(recipe, {}), **given}
    cells = make_cells(_experiment(flags, base), grid, flags.seeds)
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
    flags = _parse(make_dataclass("report", [DIRECTORY, QUIET]), arguments, "report")
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
    every = ("every", _flag(float, "seconds between two looks"), 0.5)
    flags = _parse(make_dataclass("watch", [DIRECTORY, every]), arguments, "watch")
    folder = RunFolder.open(Path(flags.directory))
    with choose(console, False) as display:
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
    data_dir = ("data_dir", _flag(str | None, "folder of data sets; default $RFLBAT_DATA_DIR"), None)
    flags = _parse(make_dataclass("doctor", [data_dir]), arguments, "doctor")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
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
    own = current()
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
        if own.first:
            _say(own, f"{stop}{go_on}")
        return 130
    except KeyboardInterrupt as stop:
        if own.first:
            _say(own, "; ".join(["interrupted", *stop.args]))
        return 130
    return 0


def _place(command: str) -> contextlib.AbstractContextManager[Ranks]:
    """Join the other ranks, if there are any and the command can be shared."""
    if command in {"run", "resume"}:
        return joined()
    if command == "sweep" and not launched().alone:
        raise UserError("`rflbat sweep` runs in one process; torchrun is for run and resume")
    return contextlib.nullcontext(ALONE)


def _say(own: Ranks, text: str) -> None:
    who = "rflbat" if own.alone else f"rflbat, rank {own.rank} of {own.count}"
    print(f"{who}: {text}", file=sys.stderr)
