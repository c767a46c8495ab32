"""The contract between the benchmark and a peer: one command line in, one line of JSON out.

A harness ``run_NAME.py`` runs as a module, by the Python of the peer's environment, with this repository's root in
``PYTHONPATH``; ``call`` does it. Only numpy and the standard library are needed here, so any environment can import it.
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
"""Somebody may have set them for an older OpenBLAS; a current one chooses better, and numpy would look slow."""
LIMIT = 900.0
"""Seconds after which a peer is given up."""


@dataclass(frozen=True)
class Training:
    """What a harness of a training peer prints.

    Attributes:
        peer: its title.
        version: of the peer.
        workload: W1, W2 or W3.
        threads: of each worker.
        workers: processes, or threads where the peer trains clients in threads.
        seconds: of each round after the warm-up.
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
        """Say why this is no measurement, or None.

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
    """What a harness of a defense peer prints; the aggregated update goes to the file that ``--out`` names.

    Attributes:
        peer: its title.
        version: of the peer.
        defense: our name of the defense.
        settings: with what the peer's class was made.
        arrays: "torch" or "numpy", what it was given.
        clients: N.
        parameters: D.
        f: assumed malicious clients.
        threads: of the process.
        seconds: of each round after the warm-up.
        peak_bytes: largest resident memory, the updates included.
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
        """Say why this is no measurement, or None."""
        return _bad_seconds(self.peer, self.seconds)


Report = TypeVar("Report", Training, Defended)


def _bad_seconds(peer: str, seconds: Sequence[float]) -> str | None:
    if seconds and all(0 < second < math.inf for second in seconds):
        return None
    return f"{peer}: {list(seconds)} are no seconds of rounds"


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def training_parser(peer: str) -> argparse.ArgumentParser:
    """Make the parser of a training harness, to which the harness may add options of its own.

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
    parser.add_argument("--threads", type=_positive, default=1, help="of each worker")
    parser.add_argument("--workers", type=_positive, default=1)
    parser.add_argument("--rounds", type=_positive, default=5, help="timed, after one warm-up")
    return parser


def workload_named(name: str) -> Workload:
    """Give the workload of a name.

    Raises:
        argparse.ArgumentTypeError: there is none.
    """
    if name not in WORKLOADS:
        raise argparse.ArgumentTypeError(f"no workload {name!r}; there are {', '.join(WORKLOADS)}")
    return WORKLOADS[name]


def defense_parser(peer: str) -> argparse.ArgumentParser:
    """Make the parser of a defense harness.

    Args:
        peer: a name of ``PEERS``.
    """
    row = PEERS[peer]
    parser = argparse.ArgumentParser(prog=row.harness, description=f"Defenses of {row.title} {row.version}.")
    parser.add_argument("defense", choices=DEFENSES)
    parser.add_argument("--clients", type=_positive, default=100)
    parser.add_argument("--parameters", type=_positive, default=7850)
    parser.add_argument("--f", type=int, default=20, help="assumed malicious clients; multikrum then averages N - f")
    parser.add_argument("--bound", type=float, default=1.0, help="longest norm that norm_clipping lets through")
    parser.add_argument("--passes", type=_positive, help="of geomed, at most; default what its answer needs")
    parser.add_argument("--arrays", choices=("torch", "numpy"), default="torch")
    parser.add_argument("--threads", type=_positive, default=1)
    parser.add_argument("--rounds", type=_positive, default=5, help="timed, after one warm-up")
    parser.add_argument("--out", type=Path, required=True, help=".npy file for the aggregated update")
    return parser


def timed_rounds(action: Callable[[], object], rounds: int) -> tuple[float, ...]:
    """Run once to warm up, then time each round.

    Args:
        action: one round; it returns when the round's work is done.
        rounds: how many are timed.

    Returns:
        seconds of each.
    """
    action()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return tuple(seconds)


def peak_bytes() -> int:
    """Largest resident memory of this process so far.

    Linux hands ``ru_maxrss`` on from the process that started this one, so a small peer started by a large benchmark
    would be charged for it; ``VmHWM`` starts anew with every program and is taken where there is one.

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
    """Send what a peer and its processes write to stdout to stderr, so that stdout has the report alone."""
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
    """Print the report as one line of JSON; one that is no measurement goes to stderr and ends the process with 1."""
    complaint = report.complaint()
    if complaint:
        sys.exit(complaint)
    print(json.dumps(asdict(report)), flush=True)


def parse(kind: type[Report], output: str) -> Report:
    """Read what a harness printed.

    Args:
        kind: ``Training`` or ``Defended``.
        output: its whole stdout; whatever a peer itself printed before the last line is passed over.

    Raises:
        ValueError: the last line is no such report, or is one that the harness should not have printed.
    """
    lines = output.strip().splitlines()
    try:
        values: dict[str, Any] = json.loads(lines[-1])
        if set(values) != {field.name for field in fields(kind)}:
            raise ValueError(f"fields {sorted(values)}")
        report = kind(**{**values, "seconds": tuple(values["seconds"])})
        complaint = report.complaint()
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(f"no report of a peer ({error}): {lines[-1:]}") from error
    if complaint:
        raise ValueError(complaint)
    return report


def command(peer: str, *arguments: object) -> list[str]:
    """Give the command of a peer's harness; it runs with ``environment(threads)``.

    Raises:
        FileNotFoundError: the peer is not installed.
    """
    python = python_of(peer)
    if python is None:
        raise FileNotFoundError(f"{peer} is not installed: python -m benchmarks.speed.peers.environments {peer}")
    return [str(python), "-m", f"{__package__}.{PEERS[peer].harness}", *map(str, arguments)]


def environment(threads: int) -> dict[str, str]:
    """Give the variables for a harness: this repository in the path, and thread pools that open with that many threads.

    Example:
        >>> environment(2)["OMP_NUM_THREADS"]
        '2'
    """
    pools = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    own = {name: value for name, value in os.environ.items() if name not in KERNEL_CHOICES}
    return {**own, **pools, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}


def call(kind: type[Report], peer: str, *arguments: object, threads: int = 1) -> Report:
    """Run a peer's harness and read its report.

    Args:
        kind: ``Training`` or ``Defended``.
        peer: a name of ``PEERS``.
        arguments: of its command line, without ``--threads``.
        threads: of each worker.

    Raises:
        FileNotFoundError: the peer is not installed.
        RuntimeError: the harness failed, the message has the end of its stderr; or it took too long.
        ValueError: it printed no report.
    """
    words = command(peer, *arguments, "--threads", threads)
    code, output, errors = finish(words, environment(threads), LIMIT)
    if code:
        raise RuntimeError(f"{' '.join(words[2:])} failed: {errors.strip()[-2000:]}")
    return parse(kind, output)


def finish(words: Sequence[str], variables: dict[str, str], limit: float) -> tuple[int, str, str]:
    """Run a command to its end, or end it and all that it started.

    Args:
        words: of the command.
        variables: its environment.
        limit: seconds.

    Returns:
        exit status, stdout and stderr.

    Raises:
        RuntimeError: it took longer.

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
        except BaseException:  # Ctrl-C reaches this process alone
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output, errors
