"""The command ``rflbat``: dispatch to a subcommand, and the exit status.

Every mistake of a user ends in one line on standard error and exit status 2, before any work. A subcommand is imported
when it is called, so that those that train nothing start without torch.
"""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version

from rflbat.arguments import lookup
from rflbat.clients.allocator import keep_freed_pages
from rflbat.errors import Stopped, UserError

USAGE = """usage: rflbat COMMAND ...

  run [RECIPE]      run an experiment (default recipe: smoke, on embedded digits, no network)
  resume DIR        continue an interrupted run
  sweep [RECIPE]    run every combination of a grid: --grid defense=rflbat,krum --seeds 3 --out DIR
  watch DIR         follow a run that another process executes
  report DIR        rewrite the page, figures and tables of a run or a sweep
  export DIR FILE   write the global model of a run as a safetensors file
  list [KIND]       datasets, models, attacks, defenses, recipes, trackers, kernels
  show NAME         documentation of one of them
  doctor            what this installation can do on this machine

torchrun --nproc-per-node N -m rflbat run (or resume) ... runs one simulation in N processes.
rflbat COMMAND --help lists the flags of a command; rflbat --version prints the version."""

COMMANDS = {
    "run": "rflbat.cli.runs:run_command",
    "resume": "rflbat.cli.runs:resume_command",
    "sweep": "rflbat.cli.runs:sweep_command",
    "watch": "rflbat.cli.views:watch_command",
    "report": "rflbat.cli.views:report_command",
    "export": "rflbat.cli.runs:export_command",
    "list": "rflbat.cli.views:list_command",
    "show": "rflbat.cli.views:show_command",
    "doctor": "rflbat.cli.doctor:doctor_command",
}
"""Subcommand -> ``module:function`` that takes the words after it."""
RANKED = ("run", "resume")
"""Subcommands that several processes, started by torchrun, execute together."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: words after ``rflbat``; those of the process by default.

    Returns:
        exit status: 0; 1 for a sweep with failed cells, or if another rank is lost; 2 for a mistake of the user, or a
            disk that refuses to write; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if os.getcwd() not in sys.path:  # last: `--defense mine:noisy` finds ./mine.py, which hides no installed module
        sys.path.append(os.getcwd())
    if not words or words[0] in {"-h", "--help"}:
        print(USAGE)
        return 0
    if words[0] == "--version":
        print(f"rflbat {version('rflbat')}")
        return 0
    if arguments is None:  # the command line started this process, so it may set the process's memory policy
        keep_freed_pages()
    rank, count = _place(words[0])
    name = "rflbat" if count == 1 else f"rflbat, rank {rank} of {count}"
    try:
        module, _, function = lookup("command", COMMANDS, words[0]).partition(":")
        command: Callable[[list[str]], None] = getattr(import_module(module), function)
        command(words[1:])
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{name}: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        if rank == 0 or stop.exit_status == 1:
            print(f"{name}: {stop}", file=sys.stderr)
        return stop.exit_status
    except KeyboardInterrupt as stop:
        if rank == 0:
            print(f"{name}: {'; '.join(['interrupted', *stop.args])}", file=sys.stderr)
        return 130
    return 0


def _place(command: str) -> tuple[int, int]:
    """Return rank and number of processes, as torchrun states them in the environment; (0, 1) if it states none."""
    if command not in RANKED:
        return 0, 1
    try:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        return 0, 1
