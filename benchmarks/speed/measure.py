"""Measurements: timings, rates of the machine, rows of the CSV with floors and ratios, and the CSV files."""

import csv
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np


class Wrong(Exception):
    """A contender's result is not correct, so its time does not count."""


@dataclass(frozen=True)
class Timing:
    """Measurement of one contender.

    Attributes:
        contender: name.
        version: version of the contender, in words.
        workers: processes or threads that run in parallel.
        seconds: seconds of each repetition after the warm-up.
        peak_bytes: largest resident memory of its processes.
        checked: how its result was checked.
        trouble: why there is no result: not installed, failed, wrong. Then the other attributes do not count.
    """

    contender: str
    version: str = ""
    workers: int = 1
    seconds: tuple[float, ...] = ()
    peak_bytes: int = 0
    checked: str = ""
    trouble: str = ""


@dataclass(frozen=True)
class Rates:
    """Rates of the machine for a number of threads, measured in the run whose floors they determine.

    Attributes:
        group: group of the cases that the run measured.
        threads: threads of each library.
        processor: its name.
        python: version.
        torch: version.
        numpy: version, and the kernels of its OpenBLAS.
        read: bytes/s of a sum over 512 MiB.
        copy: bytes/s of a copy of 256 MiB, read and written.
        matrix_torch: operations/s of a product of 2048 x 2048 float32 matrices.
        matrix_numpy: the same by numpy.
        convolution: operations/s of the second convolution of W2 on a batch of 20, forward.
        imported: bytes that a process of rflbat holds after its imports, most of them torch's.
    """

    group: str
    threads: int
    processor: str
    python: str
    torch: str
    numpy: str
    read: float
    copy: float
    matrix_torch: float
    matrix_numpy: float
    convolution: float
    imported: int

    def floor(self, operations: float, least_bytes: float) -> float:
        """Return a lower bound in seconds for any program: the larger of operations and bytes at the best rates.

        Args:
            operations: operations that the result needs.
            least_bytes: bytes that must be read or written.

        Example:
            >>> rates = Rates("W1", 1, "", "", "", "", read=2e9, copy=4e9, matrix_torch=1e9, matrix_numpy=5e9,
            ...               convolution=1e9, imported=0)
            >>> rates.floor(1e10, 4e9), rates.floor(1e9, 8e9)
            (2.0, 2.0)
        """
        matrix, memory = max(self.matrix_torch, self.matrix_numpy), max(self.read, self.copy)
        return max(operations / matrix, least_bytes / memory)


@dataclass(frozen=True)
class Row:
    """One contender of one case at one number of threads: seconds, bytes, and ratios to other medians.

    Attributes:
        case: case of the registry.
        contender: "rflbat", another back end of it, a baseline or a peer.
        version: version of the contender.
        threads: total number of threads.
        workers: processes or threads that share them.
        clients: N.
        parameters: D.
        median: seconds of a repetition; None without a result, like ``p20`` and ``p80``.
        p20: a fifth of the repetitions are faster.
        p80: a fifth are slower.
        repeats: number of repetitions.
        peak_bytes: largest resident memory of all its processes.
        floor_seconds: floor of the case, by the rates of the same run.
        over_floor: median / floor.
        share_of_baseline: median / median of the case's baseline.
        share_of_best_peer: median / median of the fastest peer.
        checked: how the result was checked, or why there is none.
    """

    case: str
    contender: str
    version: str
    threads: int
    workers: int
    clients: int
    parameters: int
    median: float | None
    p20: float | None
    p80: float | None
    repeats: int
    peak_bytes: int | None
    floor_seconds: float
    over_floor: float | None
    share_of_baseline: float | None
    share_of_best_peer: float | None
    checked: str


@dataclass(frozen=True)
class Size:
    """Attributes that all rows of a case share, as in ``Row``."""

    case: str
    threads: int
    clients: int
    parameters: int
    floor_seconds: float


def rows_of(size: Size, timings: Sequence[Timing], baseline: str, peers: Iterable[str]) -> list[Row]:
    """Turn timings into rows; a contender without a checked result gets no numbers and is no reference.

    Args:
        size: size of the case.
        timings: one for each contender.
        baseline: name of the contender that ``share_of_baseline`` refers to.
        peers: names of the contenders that are peers.

    Example:
        >>> size = Size("W1", 1, 100, 7850, 0.5)
        >>> timings = [Timing("rflbat", seconds=(1.0,), checked="equal"), Timing("loop", seconds=(4.0,), checked="yes"),
        ...            Timing("pfl", trouble="not installed")]
        >>> ours, loop, pfl = rows_of(size, timings, "loop", ["pfl"])
        >>> ours.share_of_baseline, ours.over_floor, ours.share_of_best_peer, pfl.median, pfl.checked
        (0.25, 2.0, None, None, 'not installed')
    """
    medians = {each.contender: float(np.median(each.seconds)) for each in timings if _counts(each)}
    best = min((medians[peer] for peer in peers if peer in medians), default=None)
    return [_row(size, each, medians.get(baseline), best) for each in timings]


def _counts(timing: Timing) -> bool:
    return bool(timing.seconds and timing.checked and not timing.trouble)


def _row(size: Size, timing: Timing, baseline: float | None, best: float | None) -> Row:
    shared = (timing.version, size.threads, timing.workers, size.clients, size.parameters)
    floor = _rounded(size.floor_seconds)
    if not _counts(timing):
        nothing = (None, None, None, 0, None, floor, None, None, None)
        return Row(size.case, timing.contender, *shared, *nothing, timing.trouble or "not checked")
    p20, median, p80 = (float(value) for value in np.quantile(timing.seconds, [0.2, 0.5, 0.8]))
    shares = (_rounded(median / each) if each else None for each in (size.floor_seconds, baseline, best))
    times = (_rounded(median), _rounded(p20), _rounded(p80), len(timing.seconds), timing.peak_bytes, floor)
    return Row(size.case, timing.contender, *shared, *times, *shares, timing.checked)


def _rounded(value: float) -> float:
    """Round to four figures: more than a clock resolves, and the file changes less."""
    return float(f"{value:.4g}")


def agreement(found: Iterable[Any], expected: Iterable[Any], tolerance: float, what: str) -> str:
    """Compare arrays, in float64, part by part.

    The root mean square of the error, relative to that of the expected numbers, must not exceed the tolerance; the
    largest error, relative to the largest expected number, must not exceed ten times the tolerance.

    Args:
        found: arrays, or rows of one.
        expected: arrays of the same shapes.
        tolerance: see above.
        what: name of the arrays, for the message.

    Returns:
        the name and the relative error.

    Raises:
        Wrong: the error is too large, or not finite.

    Example:
        >>> agreement([[1.0, 2.0]], [[1.0, 2.0]], 1e-6, "the sum")
        'the sum to 0.0e+00'
    """
    square = total = largest = reach = 0.0
    for part, wanted in zip(found, expected, strict=True):
        right = np.asarray(wanted, np.float64)
        error = np.asarray(part, np.float64) - right
        square, total = square + float(np.sum(error * error)), total + float(np.sum(right * right))
        largest, reach = max(largest, float(np.abs(error).max())), max(reach, float(np.abs(right).max()))
        if not math.isfinite(square):
            raise Wrong(f"{what}: not finite")
    relative = math.sqrt(square / total) if total else math.sqrt(square)
    if relative > tolerance or largest > 10 * tolerance * (reach or 1.0):
        raise Wrong(f"{what}: off by {relative:.1e}, at most {tolerance:.0e} is allowed (largest error {largest:.1e})")
    return f"{what} to {relative:.1e}"


def failure(error: Exception) -> str:
    """Return one line on why a contender failed: its last exception, without the output of a launcher.

    Args:
        error: exception whose message ends with the stderr of a process.

    Example:
        >>> failure(RuntimeError("Traceback ...\\n[rank0]: ValueError: too many\\nChildFailedError: \\n======"))
        'failed: [rank0]: ValueError: too many'
        >>> failure(RuntimeError("W1 pfl: ended by SIGKILL"))
        'failed: W1 pfl: ended by SIGKILL'
    """
    lines = [line.strip() for line in str(error).splitlines() if any(map(str.isalnum, line))]
    raised = [line for line in lines if re.search(r"(Error|Exception): \S", line)]
    return f"failed: {(raised or lines or ['no message'])[-1]}"


Record = TypeVar("Record", Row, Rates)


def write_csv(path: Path, records: Sequence[Row] | Sequence[Rates]) -> None:
    """Write records, one per line; None becomes an empty field.

    Args:
        path: path of the file; its folder is created.
        records: at least one record.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(records[0])], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(record) for record in records)


def read_csv(path: Path, kind: type[Record]) -> list[Record]:
    """Read the records of ``write_csv``; an empty list if there is no file.

    Args:
        path: path of the file.
        kind: ``Row`` or ``Rates``.

    Raises:
        ValueError: the file has other columns.
    """
    if not path.exists():
        return []
    kinds = {field.name: field.type for field in fields(kind)}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != list(kinds):
            raise ValueError(f"{path.name} has the columns {reader.fieldnames}; expected {list(kinds)}")
        return [kind(**{name: _read(text, kinds[name]) for name, text in line.items()}) for line in reader]


def _read(text: str, kind: Any) -> Any:
    if text == "" and kind is not str:
        return None
    if kind is str:
        return text
    return int(text) if kind in (int, int | None) else float(text)
