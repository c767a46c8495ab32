"""Run one contender in a separate process: a case and a name in, one line of JSON out.

This separates the contenders' memory, and every thread pool starts with the right number of threads.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.cases import Case
from benchmarks.speed.machine import measure_rates
from benchmarks.speed.measure import Rates, Timing, Wrong, failure
from benchmarks.speed.peers.contract import environment, peak_bytes
from benchmarks.speed.registry import case_named
from rflbat.clients.allocator import keep_freed_pages
from rflbat.errors import UserError

EXPECT, RATES = "expect", "rates"
"""Jobs besides the contenders: store the expected result; measure the machine."""


def timed(action: Callable[[], object], repeats: int, budget: float, cold: bool = False) -> tuple[float, ...]:
    """Call once to warm up, then time calls until the time budget is spent.

    Args:
        action: one repetition.
        repeats: maximum number of timed calls.
        budget: seconds.
        cold: skip the warm-up.

    Returns:
        seconds of each timed call, at least one.
    """
    if not cold:
        action()
    seconds: list[float] = []
    while len(seconds) < repeats and (not seconds or sum(seconds) < budget):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return tuple(seconds)


def contend(case: Case, contender: str, folder: Path, repeats: int, budget: float, cold: bool) -> Timing:
    """Time a contender in this process, and check its result.

    Args:
        case: case of the registry.
        contender: name of the contender.
        folder: folder with the expected result.
        repeats: maximum number of timed calls.
        budget: seconds for all of them.
        cold: skip the warm-up.
    """
    if contender.startswith("rflbat"):
        keep_freed_pages()  # as the command ``rflbat`` does
    try:
        prepared = case.prepare(contender)
    except UserError as error:  # the model does not have this back end
        return Timing(contender, trouble=str(error))
    seconds = timed(prepared.action, repeats, budget, cold)
    peak = peak_bytes()
    try:
        checked, trouble = prepared.verify(folder), ""
    except Wrong as error:
        checked, trouble = "", f"wrong: {error}"
    return Timing(contender, prepared.version, prepared.workers, seconds, peak, checked, trouble)


def call(threads: int, job: str, name: str, *arguments: object) -> Any:
    """Run a job in a new process and parse its output.

    Args:
        threads: number of threads of its pools.
        job: a contender, ``EXPECT`` or ``RATES``.
        name: name of a case, or of a group for ``RATES``.
        arguments: arguments of the command line.

    Raises:
        RuntimeError: the job failed; the message has the end of its stderr.
    """
    words = [sys.executable, "-m", "benchmarks.speed.fresh", name, job, "--threads", threads, *arguments]
    path = ":".join(entry for entry in sys.path if entry)
    there = {**environment(threads), "PYTHONPATH": path}
    done = subprocess.run(list(map(str, words)), env=there, capture_output=True, text=True, check=False)
    if done.returncode:
        # The kernel kills a process that takes too much memory; it leaves no message.
        ended = f"ended by {signal.Signals(-done.returncode).name}" if done.returncode < 0 else ""
        raise RuntimeError(f"{name} {job}: {done.stderr.strip()[-2000:] or ended}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def rates(group: str, threads: int) -> Rates:
    """Measure the machine in a new process."""
    return Rates(**call(threads, RATES, group))


def expectation(case_name: str, folder: Path, threads: int) -> None:
    """Store the expected result of a case in a folder, in a new process."""
    call(threads, EXPECT, case_name, "--folder", folder)


def timing(
    case_name: str, contender: str, folder: Path, threads: int, repeats: int, budget: float, cold: bool = False
) -> Timing:
    """Measure a contender in a new process; a failure is returned as a timing with its reason.

    Args:
        case_name: case of the registry.
        contender: name of the contender.
        folder: folder with the expected result.
        threads: number of threads of its pools.
        repeats: maximum number of timed calls.
        budget: seconds for all of them.
        cold: skip the warm-up.
    """
    how = ("--repeats", repeats, "--budget", f"{budget:g}", *(["--cold"] if cold else []))
    try:
        found = call(threads, contender, case_name, "--folder", folder, *how)
    except RuntimeError as error:
        return Timing(contender, trouble=failure(error))
    return Timing(**{**found, "seconds": tuple(found["seconds"])})


def do(words: Sequence[str]) -> Any:
    """Run one job in this process and return its output.

    Args:
        words: the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.fresh", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("job")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    if options.job == RATES:
        return asdict(measure_rates(options.name, options.threads))
    case = case_named(options.name)
    if options.job == EXPECT:
        case.expect(options.folder)
        return {}
    return asdict(contend(case, options.job, options.folder, options.repeats, options.budget, options.cold))


if __name__ == "__main__":
    print(json.dumps(do(sys.argv[1:])), flush=True)
