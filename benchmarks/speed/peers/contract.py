"""The contract between the benchmark and a peer: one command line in, one line of JSON out.

A harness ``run_NAME.py`` runs as a module, by the Python of the peer's environment, with this repository's root in
``PYTHONPATH``; see ``call``. This module needs only numpy and the standard library, so any environment can import it.
"""

import argparse
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.speed.peers.environments import DEFENSES, PEERS, python_of
from benchmarks.speed.workloads import WORKLOADS, Workload

ROOT = Path(__file__).resolve().parents[3]
KERNEL_CHOICES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Variables that may be set for an older OpenBLAS. A current one chooses better kernels; these make numpy look slow."""
LIMIT = 900.0
"""Time limit of a peer in seconds."""


@dataclass(frozen=True)
class Training:
    """Report of a training peer's harness.

    Attributes:
        peer: title of the peer.
        version: version of the peer.
        workload: W1, W2 or W3.
        threads: threads of each worker.
        workers: processes, or threads if the peer trains clients in threads.
        seconds: seconds of each round after the warm-up.
        peak_bytes: largest resident memory, summed over the workers.
        loss_before: mean cross-entropy of the global model over all clients' data, before the warm-up.
        loss_after: the same after the last round.
    """

    peer: str
    version: str
    workload: str
    threads: int
    workers: int
    seconds: tuple[float, ...]
    peak_bytes: int
    loss_before: float
    loss_after: float

    def complaint(self) -> str | None:
        """Return why the measurement is not valid, or None.

        Example:
            >>> Training("x", "1", "W1", 1, 1, (0.5,), 1, 2.0, 2.5).complaint()
            'x: the loss on W1 did not fall, from 2.0 to 2.5'
        """
        if not self.loss_after < self.loss_before < math.inf:
            return (
                f"{self.peer}: the loss on {self.workload} did not fall, from {self.loss_before} to {self.loss_after}"
            )
        return _bad_seconds(self.peer, self.seconds)


@dataclass(frozen=True)
class Defended:
    """Report of a defense peer's harness; the aggregated update is written to the file ``--out``.

    Attributes:
        peer: title of the peer.
        version: version of the peer.
        defense: our name of the defense.
        settings: arguments of the peer's class.
        arrays: "torch" or "numpy", the type of the input.
        clients: N.
        parameters: D.
        f: assumed malicious clients.
        threads: threads of the process.
        seconds: seconds of each round after the warm-up.
        peak_bytes: largest resident memory, including the updates.
    """

    peer: str
    version: str
    defense: str
    settings: dict[str, float]
    arrays: str
    clients: int
    parameters: int
    f: int
    threads: int
    seconds: tuple[float, ...]
    peak_bytes: int

    def complaint(self) -> str | None:
        """Return why the measurement is not valid, or None."""
        return _bad_seconds(self.peer, self.seconds)


Report = TypeVar("Report", Training, Defended)


def _bad_seconds(peer: str, seconds: Sequence[float]) -> str | None:
    if seconds and all(0 < second < math.inf for second in seconds):
        return None
    return f"{peer}: {list(seconds)} are not valid seconds of rounds"


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def training_parser(peer: str) -> argparse.ArgumentParser:
    """Build the parser of a training harness; the harness may add its own options.

    Args:
        peer: a name of ``PEERS``.

    Example:
        >>> training_parser("pfl").parse_args(["W2", "--rounds", "1"]).workload.clients
        100
    """
    row = PEERS[peer]
    parser = argparse.ArgumentParser(
        prog=row.harness, description=f"Rounds of {row.title} {row.version}, one JSON line."
    )
    parser.add_argument("workload", type=workload_named, metavar="|".join(row.runs))
    parser.add_argument("--threads", type=_positive, default=1, help="threads of each worker")
    parser.add_argument("--workers", type=_positive, default=1)
    parser.add_argument("--rounds", type=_positive, default=5, help="timed, after one warm-up")
    return parser


def workload_named(name: str) -> Workload:
    """Return a workload by name.

    Raises:
        argparse.ArgumentTypeError: the name is unknown.
    """
    if name not in WORKLOADS:
        raise argparse.ArgumentTypeError(f"unknown workload {name!r}; known: {', '.join(WORKLOADS)}")
    return WORKLOADS[name]


def defense_parser(peer: str) -> argparse.ArgumentParser:
    """Build the parser of a defense harness.

    Args:
        peer: a name of ``PEERS``.
    """
    row = PEERS[peer]
    parser = argparse.ArgumentParser(prog=row.harness, description=f"Defenses of {row.title} {row.version}.")
    parser.add_argument("defense", choices=DEFENSES)
    parser.add_argument("--clients", type=_positive, default=100)
    parser.add_argument("--parameters", type=_positive, default=7850)
    parser.add_argument("--f", type=int, default=20, help="assumed malicious clients; multikrum then averages N - f")
    parser.add_argument("--bound", type=float, default=1.0, help="largest norm that norm_clipping keeps")
    parser.add_argument("--passes", type=_positive, help="maximum passes of geomed; default: until it converges")
    parser.add_argument("--arrays", choices=("torch", "numpy"), default="torch")
    parser.add_argument("--threads", type=_positive, default=1)
    parser.add_argument("--rounds", type=_positive, default=5, help="timed, after one warm-up")
    parser.add_argument("--out", type=Path, required=True, help=".npy file for the aggregated update")
    return parser


def timed_rounds(action: Callable[[], object], rounds: int) -> tuple[float, ...]:
    """Run once to warm up, then time each round.

    Args:
        action: one round; returns when the round's work is done.
        rounds: number of timed rounds.

    Returns:
        seconds of each timed round.
    """
    action()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return tuple(seconds)


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far.

    On Linux ``ru_maxrss`` is inherited from the parent process, so a small peer started by a large benchmark would
    report the benchmark's memory. ``VmHWM`` is reset by every program and is used if available.

    Example:
        >>> peak_bytes() > 2**20
        True
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def quiet() -> Iterator[None]:
    """Redirect the stdout of a peer and its processes to stderr, so that stdout has only the report."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def publish(report: Training | Defended) -> None:
    """Print the report as one line of JSON; if it is not valid, print why to stderr and exit with status 1."""
    complaint = report.complaint()
    if complaint:
        sys.exit(complaint)
    print(json.dumps(asdict(report)), flush=True)


def parse(kind: type[Report], output: str) -> Report:
    """Parse the output of a harness.

    Args:
        kind: ``Training`` or ``Defended``.
        output: its whole stdout; lines before the last one are ignored.

    Raises:
        ValueError: the last line is not such a report, or the report is not valid.
    """
    lines = output.strip().splitlines()
    try:
        values: dict[str, Any] = json.loads(lines[-1])
        if set(values) != {field.name for field in fields(kind)}:
            raise ValueError(f"fields {sorted(values)}")
        report = kind(**{**values, "seconds": tuple(values["seconds"])})
        complaint = report.complaint()
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(f"expected a report of a peer ({error}): {lines[-1:]}") from error
    if complaint:
        raise ValueError(complaint)
    return report


def command(peer: str, *arguments: object) -> list[str]:
    """Return the command of a peer's harness; it runs with ``environment(threads)``.

    Raises:
        FileNotFoundError: the peer is not installed.
    """
    python = python_of(peer)
    if python is None:
        raise FileNotFoundError(f"{peer} is not installed: python -m benchmarks.speed.peers.environments {peer}")
    return [str(python), "-m", f"{__package__}.{PEERS[peer].harness}", *map(str, arguments)]


def environment(threads: int) -> dict[str, str]:
    """Return the variables for a harness: this repository in the path, and the number of threads of thread pools.

    Example:
        >>> environment(2)["OMP_NUM_THREADS"]
        '2'
    """
    pools = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    own = {name: value for name, value in os.environ.items() if name not in KERNEL_CHOICES}
    return {**own, **pools, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}


def call(kind: type[Report], peer: str, *arguments: object, threads: int = 1) -> Report:
    """Run a peer's harness and parse its report.

    Args:
        kind: ``Training`` or ``Defended``.
        peer: a name of ``PEERS``.
        arguments: arguments of its command line, without ``--threads``.
        threads: threads of each worker.

    Raises:
        FileNotFoundError: the peer is not installed.
        RuntimeError: the harness failed (the message has the end of its stderr) or took too long.
        ValueError: the output has no valid report.
    """
    words = command(peer, *arguments, "--threads", threads)
    code, output, errors = finish(words, environment(threads), LIMIT)
    if code:
        raise RuntimeError(f"{' '.join(words[2:])} failed: {errors.strip()[-2000:]}")
    return parse(kind, output)


def finish(words: Sequence[str], variables: dict[str, str], limit: float) -> tuple[int, str, str]:
    """Run a command; at the time limit kill it and all processes that it started.

    Args:
        words: words of the command.
        variables: its environment.
        limit: time limit in seconds.

    Returns:
        exit status, stdout and stderr.

    Raises:
        RuntimeError: the command took longer than the limit.

    Example:
        >>> finish([sys.executable, "-c", "print(1)"], dict(os.environ), 60.0)
        (0, '1\\n', '')
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=variables, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise RuntimeError(f"{' '.join(words[2:])} took more than {limit:g} s") from None
        except BaseException:  # Ctrl-C reaches only this process
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output, errors
