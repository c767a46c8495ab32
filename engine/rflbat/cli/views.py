"""The subcommands that read: ``watch``, ``report``, ``list`` and ``show``. They start without torch."""

import shlex
import time
from dataclasses import make_dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rflbat.arguments import lookup
from rflbat.errors import UserError
from rflbat.storage.run_folder import RunFolder
from rflbat.storage.schema import CELLS


def show_result(console: Console, folder: RunFolder, quiet: bool) -> None:
    """Write the report of a run, and print its closing tables.

    Args:
        console: where the tables are printed.
        folder: the run folder.
        quiet: print nothing.
    """
    from rflbat.report.build import report_run
    from rflbat.report.page import NEEDS, available
    from rflbat.report.shadow_report import shadow_table
    from rflbat.report.tables import closing_table, to_rich

    figures = report_run(folder.path)
    if quiet:
        return
    console.print(to_rich(closing_table(folder.run(), folder.summary() or {})))
    shadows = shadow_table(folder.run()["config"]["defense"], folder.rounds(), folder.shadows())
    if shadows:
        console.print(to_rich(shadows))
    console.print(f"run folder: {folder.path}", highlight=False, soft_wrap=True, markup=False)
    for line in [*figures, *([] if available() else [NEEDS])]:
        console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)


def report_command(arguments: list[str]) -> None:
    """Rewrite the page, figures and tables of a run or a sweep: ``rflbat report``.

    Args:
        arguments: words after the subcommand.

    Raises:
        UserError: a mistake of the user.
    """
    from rflbat.cli.flags import DIRECTORY, QUIET, parse

    flags = parse(make_dataclass("report", [DIRECTORY, QUIET]), arguments, "report")  # before the import of matplotlib
    from rflbat.report.build import report_sweep
    from rflbat.report.page import NEEDS, available
    from rflbat.report.tables import to_rich

    path, console = Path(flags.directory), Console()
    if not (path / CELLS).is_dir():
        show_result(console, RunFolder.open(path), flags.quiet)
        return
    report = report_sweep(path)
    if not flags.quiet:
        table = to_rich(report.table, console.width)
        console.print(table)
        if left := report.table.columns[len(table.columns) :]:
            console.print(f"too wide for this terminal, see the files and the page: {'; '.join(left)}", highlight=False)
        missing = [] if available() else [NEEDS]
        for line in [*report.files, *missing, *(f"unfinished: {name}" for name in report.unfinished)]:
            console.print(str(line), highlight=False, soft_wrap=True, markup=False)


def watch_command(arguments: list[str]) -> None:
    """Follow a run that another process executes: ``rflbat watch``; arguments and errors as ``report_command``."""
    from rflbat.cli.display import make_display
    from rflbat.cli.flags import DIRECTORY, EVERY, parse
    from rflbat.report.tables import closing_table, to_rich
    from rflbat.simulation.follow import follow

    flags = parse(make_dataclass("watch", [DIRECTORY, EVERY]), arguments, "watch")
    folder, console = RunFolder.open(Path(flags.directory)), Console()
    with make_display(console, False) as display:
        display.on_start(folder.run())
        for record in follow(folder, lambda: time.sleep(max(0.01, flags.every))):
            display.on_round(record)
    summary = folder.summary()
    if summary is None:
        stopped = f"no process is writing this run; continue it with `rflbat resume {shlex.quote(flags.directory)}`"
        console.print(stopped, highlight=False, soft_wrap=True, markup=False)
    else:
        console.print(to_rich(closing_table(folder.run(), summary)))


def list_command(arguments: list[str]) -> None:
    """List the registries: ``rflbat list``; arguments and errors as ``report_command``."""
    from rflbat.cli.catalog import catalog

    console, kinds = Console(), catalog()
    if len(arguments) > 1:
        raise UserError(f"`rflbat list [KIND]` takes one kind, not {' '.join(arguments)!r}")
    if arguments and arguments[0] not in {"-h", "--help"}:
        kinds = {arguments[0]: lookup("kind", kinds, arguments[0])}
    for kind, members in kinds.items():
        table = Table(title=kind, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, text in members.items():
            table.add_row(escape(name), escape(text))
        console.print(table)


def show_command(arguments: list[str]) -> None:
    """Print the documentation of a name: ``rflbat show``; arguments and errors as ``report_command``."""
    from rflbat.cli.catalog import show
    from rflbat.cli.main import USAGE

    if arguments in (["-h"], ["--help"]):
        Console().print(USAGE, markup=False, highlight=False)
        return
    if len(arguments) != 1:
        raise UserError("`rflbat show NAME` takes one name; `rflbat list` lists them")
    Console().print(show(arguments[0]), markup=False, highlight=False, soft_wrap=True)
