"""A process whose children run experiments and are killed: `python -m tests.engine.durability.killer PLAN.json`.

The plan lists jobs. Of each an undisturbed run is made in FOLDER/straight; then one that is killed before, and one that
is killed in the middle of, every so-manieth event of it; `chains` that are killed at random events again and again; and
those that are killed from `outside` after random times. All are resumed until they are whole. Children are forked,
since starting a process anew would take many times as long. This process has one thread, so none is lost in a fork.
"""

import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rflbat.simulation.loop import resume, run
from rflbat.sweep.cells import make_cells, sweep
from tests.engine.durability.disk import At, watched
from tests.engine.durability.experiments import experiment

SESSIONS = 40
"""Number of kills after which a run is left alone."""


def forked(work: Callable[[], object], seconds: float | None = None) -> bool:
    """Do some work in a child, which may be killed from outside after a time; say whether it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if status and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        sys.exit(f"a child ended with status {status}")
    return status == 0


def die(kind: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def session(work: Callable[[], object], number: int, middle: bool) -> bool:
    def watched_work() -> None:
        with watched(At(number, middle, die)):
            work()

    return forked(watched_work)


def events_of(work: Callable[[], object], note: Path) -> list[str]:
    """Do the work undisturbed, and list its events."""

    def noting() -> None:
        at = At(-1, False, die)
        with watched(at):
            work()
        note.write_text(json.dumps(at.seen))

    assert forked(noting)
    return list(json.loads(note.read_text()))


def begin_or_go_on(job: dict[str, Any], path: Path) -> Callable[[], object]:
    """Do as a user does: start it, and resume it once it has begun."""
    if job["kind"] == "sweep":
        cells = make_cells(experiment("fedavg"), {"defense": job["defenses"]}, 1)
        return lambda: sweep(cells, path)
    return lambda: resume(path) if (path / "run.json").exists() else run(experiment(job["defense"]), path)


def finished(path: Path) -> dict[str, tuple[int, int]]:
    """Fingerprint of finished runs and cells, which a repetition would change: each summary's inode and time."""
    found = [(file, file.stat()) for file in path.rglob("summary.json")]
    return {str(file): (status.st_ino, status.st_mtime_ns) for file, status in found}


def kill_again_and_again(job: dict[str, Any], path: Path, seed: int, events: int) -> int:
    """Kill at random events, half of them in the middle; give the number of kills."""
    stream = random.Random(seed)
    for kills in range(SESSIONS):
        before = finished(path)
        if session(begin_or_go_on(job, path), stream.randrange(2 * events if kills else events), stream.random() < 0.5):
            return kills
        assert before.items() <= finished(path).items()
    assert forked(begin_or_go_on(job, path))
    return SESSIONS


def kill_from_outside(job: dict[str, Any], path: Path, seed: int, seconds: float) -> int:
    """Kill after random times, whatever the run is doing; give the number of kills."""
    stream = random.Random(seed)
    kills = 0
    while kills < 6 and not forked(begin_or_go_on(job, path), stream.uniform(0, 0.8 * seconds)):
        kills += 1
    assert forked(begin_or_go_on(job, path))
    return kills


def work_off(job: dict[str, Any]) -> dict[str, Any]:
    folder = Path(job["folder"])
    folder.mkdir(parents=True)
    started = time.monotonic()
    events = events_of(begin_or_go_on(job, folder / "straight"), folder / "events.json")
    seconds = time.monotonic() - started
    kills: dict[str, int] = {}
    for number in range(job.get("first", 0), len(events), job.get("every", len(events))):
        for middle in (False, True):
            path = folder / f"at-{number}-{'middle' if middle else 'before'}"
            assert not session(begin_or_go_on(job, path), number, middle)
            before = finished(path)
            assert forked(begin_or_go_on(job, path))
            assert before.items() <= finished(path).items()
            kills[path.name] = 1
    for seed in range(job.get("chains", 0)):
        path = folder / f"chain-{seed}"
        kills[path.name] = kill_again_and_again(job, path, seed, len(events))
    for seed in range(job.get("outside", 0)):
        path = folder / f"outside-{seed}"
        kills[path.name] = kill_from_outside(job, path, seed, seconds)
    return {"events": events, "kills": kills}


def main() -> None:
    torch.set_num_threads(1)
    draws = Path(sys.argv[1])
    jobs = json.loads(draws.read_text())
    for defense in dict.fromkeys(job.get("defense", "fedavg") for job in jobs):
        run(experiment(defense))  # what is imported, read and warm here is so in every child
    assert threading.active_count() == 1
    told = [work_off(job) for job in jobs]
    draws.with_suffix(".done").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
