"""Targets, compared with the measurements, and reasons for missed targets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.speed.measure import Row
from rflbat.report.tables import Table


@dataclass(frozen=True)
class Target:
    """A bound on one figure of rflbat's own row of a case.

    Attributes:
        case: case of the registry.
        figure: a field of ``Row``: the median in seconds, or a ratio.
        bound: upper bound of the figure.
        threads: numbers of threads for which the target is set.
        reason: why it is missed and what was tried; shown only if it is missed.
    """

    case: str
    figure: str
    bound: float
    threads: tuple[int, ...] = (1,)
    reason: str = ""


WORDS: Mapping[str, str] = {
    "median": "seconds",
    "over_floor": "x floor",
    "share_of_baseline": "of baseline",
    "share_of_best_peer": "of best peer",
}
_LSTM = (
    "oneDNN's layer alone (see Parts) takes two thirds of the time. Tried: products of all clients in a loop over "
    "tokens (rflbat vmap), embeddings of the touched words only, no gradient of the layer's workspace, token-first "
    "texts, keeping freed pages (the last two together save a tenth)"
)
_DOUBLE = (
    "the floor counts float32 operations at the rate of large products; ours are float64 on purpose, with a hundred "
    "rows, and take most of the time (see Parts); blocks are also converted and shifted to their anchors. "
    "Tried: blocks of 1 to 8 MiB, only columns whose anchor is not 0, column extremes by numpy, finite rows by sums; "
    "float32 would lose the 1e-14 that the tests require"
)
_GATHER = (
    "the gather of the batches and the two products are four fifths of the round (see Parts), and products with ten "
    "classes run at a third of the floor's rate. Tried: numpy's and oneDNN's products of this shape (no faster), "
    "batches in one buffer, chunks of 2 to 50 clients, samples on the last axis, epochs drawn whole"
)
_SUMS = (
    "they share one Gram matrix, but each ends with its own pass for a weighted sum in float64. Tried: one pass for "
    "the four further sums, 29 to 18 ms at 220,000 parameters and a ratio of 1.2 to 1.3; sums of ten rows at a time "
    "in float32, 0.6 of the time, but no longer exact to the last digit; blocks of 1 to 8 MiB. At 7,850 parameters "
    "the many small operations of each defense cost more than its sum"
)
TARGETS: Sequence[Target] = (
    Target("W1", "share_of_best_peer", 0.35, (1, 2), _GATHER),
    Target("W2", "share_of_best_peer", 0.8, (1, 2)),
    Target("W3", "share_of_best_peer", 0.55, (1, 2), _LSTM),
    Target(
        "W4-rflbat-100x7850",
        "median",
        0.02,
        reason="its parts (see Parts) are about 0.015 s, k-means of nine numbers of clusters with ten starts each the "
        "largest; the rest is a hundred small tensor operations: filters, silhouettes, medians. Tried: groups of "
        "numbers that fit the cache, skipping runs whose centres no longer move",
    ),
    Target("W4-rflbat-100x5780000", "over_floor", 1.5, reason=_DOUBLE),
    Target("W4-rflbat-100x5780000", "share_of_baseline", 0.1, reason=_DOUBLE),
    Target(
        "W4-geomed-1600x220000",
        "median",
        1.35,
        reason="up to twenty passes until no coefficient moves by 1e-9, with differences in float64; the baseline "
        "uses float32 and stops at 1e-7. Tried: differences in float32 (0.7 of the time), rows instead of columns, "
        "torch.cdist (slower)",
    ),
    Target("W4-shadows-100x7850", "share_of_baseline", 1.2, reason=_SUMS),
    Target("W4-shadows-100x220000", "share_of_baseline", 1.2, reason=_SUMS),
    Target("W4-shadows-100x5780000", "share_of_baseline", 1.2, reason=_SUMS),
)


def judged(target: Target, rows: Iterable[Row]) -> list[tuple[str, str, str, str]]:
    """Judge a target by the rows of its case.

    Args:
        target: a row of ``TARGETS``.
        rows: rows of any cases.

    Returns:
        for each number of threads: threads, figure, "met", "missed" or "not measured", and the reason of a miss.

    Example:
        >>> row = Row("W1", "rflbat", "", 1, 1, 9, 9, 0.1, 0.1, 0.1, 5, 9, 0.01, 10.0, 0.2, 0.4, "equal")
        >>> judged(Target("W1", "share_of_best_peer", 0.5, (1, 2)), [row])
        [('1', '0.4', 'met', ''), ('2', '–', 'not measured', '')]
        >>> judged(Target("W1", "median", 0.05, reason="the gather"), [row])
        [('1', '0.1', 'missed', 'the gather')]
    """
    own = {row.threads: row for row in rows if (row.case, row.contender) == (target.case, "rflbat")}
    found = []
    for threads in target.threads:
        value = getattr(own[threads], target.figure) if threads in own else None
        if value is None:
            found.append((str(threads), "–", "not measured", ""))
        elif value <= target.bound:
            found.append((str(threads), f"{value:.3g}", "met", ""))
        else:
            found.append((str(threads), f"{value:.3g}", "missed", target.reason))
    return found


def targets_table(rows: Sequence[Row], targets: Sequence[Target] = TARGETS) -> Table:
    """Lay out every target with its figure.

    Args:
        rows: rows of all cases.
        targets: the targets.
    """
    body = [
        (target.case, f"{WORDS[target.figure]}, at most {target.bound:g}", *line)
        for target in targets
        for line in judged(target, rows)
    ]
    return Table("", ("case", "target", "threads", "measured", "result", "reason, and what was tried"), body)
