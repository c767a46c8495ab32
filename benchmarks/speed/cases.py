"""A benchmark case: its contenders, the expected result, and the least work that it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.measure import Timing


@dataclass(frozen=True)
class Prepared:
    """A contender with its data in memory.

    Attributes:
        action: one timed repetition; the first call is the warm-up, and ``verify`` checks its result.
        verify: (folder in which ``Case.expect`` stored the expected result) -> how the result was checked; raises
            ``Wrong`` if it is not correct. Called after the last repetition, so it does not add to the peak memory.
        version: version of the contender, in words.
        workers: threads that run in parallel, each on its own clients.
    """

    action: Callable[[], object]
    verify: Callable[[Path], str]
    version: str
    workers: int = 1


@dataclass(frozen=True)
class Question:
    """A request to measure a peer.

    Attributes:
        threads: total number of threads.
        rounds: number of timed rounds.
        folder: folder in which ``Case.expect`` stored the expected result.
    """

    threads: int
    rounds: int
    folder: Path


@dataclass(frozen=True)
class Case:
    """One measured case.

    Attributes:
        name: name in the registry and in the CSV; the part before the first "-" is its group and the file name.
        title: description.
        clients: N.
        parameters: D.
        operations: fewest operations that compute the result.
        least_bytes: fewest bytes that must be read or written.
        contenders: contenders of this environment: rflbat first, then its back ends and the baselines.
        baseline: one of the contenders.
        expect: stores the expected result in a folder.
        prepare: prepares a contender, in a separate process.
        peers: contenders that run in their own environments.
        ask: measures a peer, given the contender's name.
        repeats: default number of repetitions of each contender.
        blocks: number of turns of each contender, so that a slow minute of the machine affects all of them.
        threads: default numbers of threads.
    """

    name: str
    title: str
    clients: int
    parameters: int
    operations: float
    least_bytes: float
    contenders: tuple[str, ...]
    baseline: str
    expect: Callable[[Path], None]
    prepare: Callable[[str], Prepared]
    peers: tuple[str, ...] = ()
    ask: Callable[[str, Question], Timing] | None = None
    repeats: int = 6
    blocks: int = 1
    threads: tuple[int, ...] = (1,)

    @property
    def group(self) -> str:
        """Name of the group of cases."""
        return self.name.partition("-")[0]
