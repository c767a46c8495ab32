"""Program of each process in a test of ranks: run the tasks of a plan one by one, and write an account.

`python driver.py PLAN.json`, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment. Each task is a
list: its kind, its name, and what it needs. Every process writes its findings to account.RANK.json beside the plan.
"""

import json
import signal
import sys
import zlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from rflbat import Experiment, Interrupted, UserError, ranks, resume, run
from rflbat.round.memory import Live
from rflbat.round.round import run_round
from rflbat.round.setup import build, initial_state
from rflbat.simulation.callbacks import CallbackBase


class Signal(CallbackBase):
    """Asks this process to stop after a round, as a terminal or a batch system does."""

    def __init__(self, rank: int, last: int) -> None:
        self.rank, self.last = rank, last

    def on_round(self, record: Any) -> None:
        if record["round"] == self.last and ranks.get_ranks().rank == self.rank:
            signal.raise_signal(signal.SIGTERM if self.rank else signal.SIGINT)


def account(result: Any) -> dict[str, Any]:
    params = result.params.contiguous().view(torch.uint8).numpy().tobytes()
    return {"summary": result.summary, "rounds": result.rounds, "params": zlib.crc32(params)}


def do_run(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    return account(run(Experiment(**settings), folder))


def do_resume(folder: Path) -> dict[str, Any]:
    return account(resume(folder))


def do_stop(folder: Path, settings: dict[str, Any], rank: int, last: int) -> dict[str, Any]:
    """Run until a signal reaches one rank in the middle of a round."""
    try:
        run(Experiment(**settings), folder, [Signal(rank, last)])
    except Interrupted as stop:
        return {"rounds": stop.rounds, "folder": stop.folder is not None}
    return {}


def do_mistake(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Each rank has its own settings where these are lists."""
    own = {
        name: value[ranks.get_ranks().rank] if isinstance(value, list) else value for name, value in settings.items()
    }
    try:
        initial_state(build(Experiment(**own)))
    except UserError as error:
        return {"said": str(error)}
    return {}


def do_memory(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Measure the peak memory of a round's tensors, beyond the memory in use before it."""
    federation = build(Experiment(**settings))
    server = initial_state(federation)
    with torch.no_grad(), Live() as live:
        run_round(federation, server)
    return {"peak": live.peak, "parameters": federation.model.layout.size}


TASKS = {"run": do_run, "resume": do_resume, "stop": do_stop, "mistake": do_mistake, "memory": do_memory}


def main(path: Path) -> None:
    plan = json.loads(path.read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    ranks.PATIENCE = timedelta(seconds=plan.get("patience", 120))
    with ranks.process_group() as own:
        told = {name: TASKS[kind](path.parent / name, *needs) for kind, name, *needs in plan["tasks"]}
    (path.parent / f"account.{own.rank}.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
