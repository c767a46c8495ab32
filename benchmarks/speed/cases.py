"""What a case is: who takes part, what is right, and the least work that it costs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.measure import Timing


@dataclass(frozen=True)
class Prepared:
    """A contender with its data in memory.

    Attributes:
        action: one repetition, timed; the first call is the warm-up and its result is what ``verify`` looks at.
        verify: (folder in which ``Case.expect`` wrote what is right) -> how the result was found right; it raises
            ``Wrong`` where it is not. Called after the last repetition, so that it adds nothing to the peak memory.
        version: of what runs, in words.
        workers: threads that work side by side, each on clients of its own.
    """

    action: Callable[[], object]
    verify: Callable[[Path], str]
    version: str
    workers: int = 1


@dataclass(frozen=True)
class Question:
    """What a peer is asked.

    Attributes:
        threads: in all.
        rounds: timed ones.
        folder: in which ``Case.expect`` wrote what is right.
    """

    threads: int
    rounds: int
    folder: Path


@dataclass(frozen=True)
class Case:
    """One thing that is measured.

    Attributes:
        name: in the registry and in the CSV; its part before the first "-" is its group, and the name of the file.
        title: what it is, in words.
        clients: N.
        parameters: D.
        operations: the fewest that give the answer.
        least_bytes: the fewest that have to be read or written.
        contenders: those that run in this environment: rflbat first, then its back ends and the baselines.
        baseline: one of them.
        expect: writes what is right into a folder.
        prepare: makes a contender ready, in a process of its own.
        peers: contenders that run in environments of their own.
        ask: measures a peer, given the contender's name.
        repeats: of each contender, where no number is asked for.
        blocks: everybody takes turns so many times, so that a slow minute of the machine hits all.
        threads: the numbers of threads that are measured, where none are asked for.
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
        """Name of the cases that belong together."""
        return self.name.partition("-")[0]
