"""The order of a run: the machine's rates, the expected result, then all contenders in turn, then the ratios."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.speed import fresh
from benchmarks.speed.cases import Case, Question
from benchmarks.speed.measure import Rates, Row, Size, Timing, Wrong, failure, rows_of
from benchmarks.speed.peers.environments import PEERS, python_of

BUDGET = 90.0
"""Seconds after which a contender of this environment gets no further repetition."""


@dataclass(frozen=True)
class Options:
    """Options of a run.

    Attributes:
        threads: numbers of threads, measured one after the other; None: the case's default.
        repeats: repetitions of each contender; None: the case's default.
        peers: peers that take part if a case has them; None: all peers.
    """

    threads: Sequence[int] | None = None
    repeats: int | None = None
    peers: Sequence[str] | None = None

    def takes(self, contender: str) -> bool:
        """Return whether a peer takes part."""
        return self.peers is None or contender.partition(" ")[0] in self.peers


def run(cases: Sequence[Case], options: Options, said: Callable[[str], None]) -> Iterator[tuple[Rates, list[Row]]]:
    """Measure cases, group after group.

    Args:
        cases: cases of the registry, in its order.
        options: options of the run.
        said: receives lines of progress.

    Yields:
        the rates of the machine, and the rows of one case at one number of threads.

    Raises:
        RuntimeError: the machine's rates could not be measured.
    """
    for group in dict.fromkeys(case.group for case in cases):
        own = [case for case in cases if case.group == group]
        asked = sorted({threads for case in own for threads in options.threads or case.threads})
        rates = {threads: fresh.rates(group, threads) for threads in asked}
        for case in own:
            with TemporaryDirectory(prefix="rflbat-speed-") as name:
                folder = Path(name)
                trouble = expected(case, folder)
                for threads in options.threads or case.threads:
                    said(f"{case.name}, {threads} thread(s)")
                    yield rates[threads], measure(case, threads, options, rates[threads], folder, trouble)


def expected(case: Case, folder: Path) -> str:
    """Store the expected result in a folder; return the reason if that fails, so that other cases continue."""
    try:
        fresh.expectation(case.name, folder, os.cpu_count() or 1)
    except RuntimeError as error:
        return failure(error)
    return ""


def measure(case: Case, threads: int, options: Options, rates: Rates, folder: Path, trouble: str = "") -> list[Row]:
    """Measure one case.

    Args:
        case: case of the registry.
        threads: total number of threads of each contender.
        options: options of the run.
        rates: rates of the machine with this number of threads.
        folder: folder in which ``case.expect`` stored the expected result.
        trouble: why there is no expected result; then no contender is measured.
    """
    peers = [peer for peer in case.peers if options.takes(peer)]
    repeats = options.repeats or case.repeats
    blocks = min(case.blocks, repeats)
    share, cold = -(-repeats // blocks), repeats == case.repeats == 1
    seen: dict[str, list[Timing]] = {name: [] for name in (*case.contenders, *peers)}
    if trouble:
        seen = {name: [Timing(name, trouble=trouble)] for name in seen}
    for _ in range(blocks):
        for contender, timings in seen.items():
            if any(timing.trouble for timing in timings):
                continue
            if contender in peers:
                timings.append(ask(case, contender, Question(threads, share, folder)))
            else:
                timings.append(fresh.timing(case.name, contender, folder, threads, share, BUDGET / blocks, cold))
    size = Size(case.name, threads, case.clients, case.parameters, rates.floor(case.operations, case.least_bytes))
    return rows_of(size, [joined(timings) for timings in seen.values()], case.baseline, peers)


def ask(case: Case, contender: str, question: Question) -> Timing:
    """Measure a peer; if it is absent, fails or is wrong, return a timing with the reason."""
    peer = contender.partition(" ")[0]
    version = PEERS[peer].version
    if python_of(peer) is None:
        return Timing(contender, version, trouble="not installed")
    if case.ask is None:
        raise ValueError(f"{case.name} has no peers")
    try:
        return case.ask(contender, question)
    except Wrong as error:
        return Timing(contender, version, trouble=f"wrong: {error}")
    except (RuntimeError, ValueError, OSError) as error:
        return Timing(contender, version, trouble=failure(error))


def joined(timings: Sequence[Timing]) -> Timing:
    """Merge the blocks of one contender: all seconds, the largest memory, any trouble.

    Example:
        >>> joined([Timing("a", seconds=(1.0,), peak_bytes=5), Timing("a", seconds=(2.0,), peak_bytes=4)])
        Timing(contender='a', version='', workers=1, seconds=(1.0, 2.0), peak_bytes=5, checked='', trouble='')
    """
    last = next((timing for timing in timings if timing.trouble), timings[-1])
    seconds = tuple(second for timing in timings for second in timing.seconds)
    peak = max(timing.peak_bytes for timing in timings)
    return Timing(last.contender, last.version, last.workers, seconds, peak, last.checked, last.trouble)
