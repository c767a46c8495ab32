"""Slow float64 oracles of the defenses: plain loops from the papers, blind to the code they check.

Each takes `updates` (N vectors), `sizes` (samples per client, None = equal) and returns an `Answer`. A row with NaN,
Inf or a number beyond 1e100 is dropped before anything else: counts such as n below are those of the finite rows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tests.oracles import kernels
from tests.oracles.kernels import Array

ROUNDING = 1e-12
"""Relative size below which a float64 result is taken for a zero blurred by rounding."""


@dataclass(frozen=True, eq=False)
class Answer:
    """Decision of a defense about one round; ``weights`` sum to 1, or are all 0 if no client is kept."""

    update: Array
    kept: NDArray[np.bool_]
    weights: Array
    detail: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Round:
    """The finite rows of a round, and which clients they belong to."""

    matrix: Array
    clients: list[int]
    rows: list[list[float]]
    sizes: list[float]

    def answer(self, weights: Sequence[float], kept: Sequence[bool], **detail: Any) -> Answer:
        """Spread what was found for the finite rows over all clients; the update is sum w_i d_i."""
        all_weights = self.spread(weights, 0.0)
        all_kept = self.spread(kept, False)
        update = kernels.weighted_sum(all_weights, self.matrix)
        finite = self.spread([True] * len(self.clients), False)
        return Answer(update, all_kept, all_weights, {"nonfinite": ~finite, **detail})

    def spread(self, values: Sequence[Any], elsewhere: Any) -> Any:
        """Values of the finite rows put back at their clients' places."""
        result = np.full(len(self.matrix), elsewhere)
        for client, value in zip(self.clients, values, strict=True):
            result[client] = value
        return result


def read(updates: ArrayLike, sizes: Sequence[float] | None) -> Round:
    matrix = np.asarray(updates, dtype=np.float64)
    counts = [1.0] * len(matrix) if sizes is None else [float(size) for size in sizes]
    if len(counts) != len(matrix) or any(not size > 0 for size in counts):
        raise ValueError(f"sizes must be {len(matrix)} positive numbers, not {sizes!r}")
    clients = [i for i, row in enumerate(matrix) if all(abs(value) <= 1e100 for value in row)]
    return Round(matrix, clients, kernels.as_rows(matrix[clients]), [counts[i] for i in clients])


def share(values: Sequence[float]) -> list[float]:
    """Values divided by their sum; all zero if that is 0."""
    total = math.fsum(values)
    return [value / total if total > 0 else 0.0 for value in values]


def fedavg(updates: ArrayLike, sizes: Sequence[float] | None = None) -> Answer:
    """sum n_i d_i / sum n_i (McMahan et al. 2017, Algorithm 1)."""
    this = read(updates, sizes)
    return this.answer(share(this.sizes), [True] * len(this.rows))


def default_f(n: int) -> int:
    """The largest f with n >= 2 f + 3 (Blanchard et al. 2017 ask for 2 f + 2 < n), at least 0."""
    f = 0
    while n >= 2 * (f + 1) + 3:
        f += 1
    return f


def krum_scores(rows: Sequence[Sequence[float]], f: int) -> list[float]:
    """s(i) = sum of the SQUARED distances to the n - f - 2 (at least one) nearest others (Blanchard 2017, sec. 4)."""
    if f < 0:
        raise ValueError(f"f must be at least 0, not {f}")
    scores = []
    for i, a in enumerate(rows):
        others = sorted(
            math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)) for j, b in enumerate(rows) if j != i
        )
        scores.append(math.fsum(others[: max(1, len(rows) - f - 2)]))
    return scores


def krum(updates: ArrayLike, sizes: Sequence[float] | None = None, *, f: int | None = None) -> Answer:
    """The one update of the lowest score, the first of equals (Blanchard et al. 2017, section 4)."""
    return multikrum(updates, sizes, f=f, m=1)


def multikrum(
    updates: ArrayLike, sizes: Sequence[float] | None = None, *, f: int | None = None, m: int | None = None
) -> Answer:
    """Plain mean (no sizes) of the m (1..n, default n - f) updates of the lowest scores (Blanchard et al. 2017)."""
    this = read(updates, sizes)
    n = len(this.rows)
    f = default_f(n) if f is None else f
    m = min(n, max(1, n - f if m is None else m))
    scores = krum_scores(this.rows, f)
    chosen = sorted(range(n), key=lambda i: (scores[i], i))[:m]
    kept = [i in chosen for i in range(n)]
    return this.answer(share([float(k) for k in kept]), kept, scores=this.spread(scores, math.nan), f=f, m=m)


def geomed(
    updates: ArrayLike, sizes: Sequence[float] | None = None, *, tolerance: float = 1e-9, iterations: int = 10_000
) -> Answer:
    """argmin_v sum_i ||v - d_i|| (Chen, Su and Xu 2017, geometric median with one client per batch), sizes unused.

    Weiszfeld 1937 from the mean: w_i = 1/||v - d_i|| / sum_j 1/||v - d_j||, v = sum w_i d_i, until no weight changes by
    more than `tolerance` of itself. Distances have a floor of 1e-12 of their median at the start (over those above 0).
    If v coincides with an update, it still leaves it unless it is the solution: the step away is about
    floor * ||sum of unit vectors||, which is more than the floor exactly if the update is not optimal.
    """
    this = read(updates, sizes)
    n = len(this.rows)
    # From the mean, so that a large common offset does not swallow small steps.
    offsets = kernels.centred_rows(this.rows) if n else []
    weights = share([1.0] * n)
    point = [0.0] * this.matrix.shape[1]
    floor = ROUNDING * kernels.median(d for d in (math.dist(row, point) for row in offsets) if d > 0)
    steps, converged = 0, not floor > 0
    while not converged and steps < iterations:
        new = share([1 / max(floor, math.dist(row, point)) for row in offsets])
        point = [math.fsum(w * row[k] for w, row in zip(new, offsets, strict=True)) for k in range(len(point))]
        converged = all(abs(a - b) <= tolerance * b for a, b in zip(new, weights, strict=True))
        weights, steps = new, steps + 1
    return this.answer(weights, [True] * n, iterations=steps, converged=converged)


def rfa(updates: ArrayLike, sizes: Sequence[float] | None = None, *, nu: float = 1e-6, iterations: int = 4) -> Answer:
    """Smoothed Weiszfeld (Pillutla, Kakade and Harchaoui 2019, Algorithm 2), started at the weighted mean.

    a_i = n_i / sum n; each pass: b_i = a_i / max(nu, ||v - d_i||), v = sum b_i d_i / sum b_i.
    """
    this = read(updates, sizes)
    shares = share(this.sizes)
    weights = shares
    for _ in range(iterations):
        point = kernels.weighted_sum(this.spread(weights, 0.0), this.matrix).tolist()
        weights = share([a / max(nu, math.dist(row, point)) for a, row in zip(shares, this.rows, strict=True)])
    return this.answer(weights, [True] * len(this.rows))


def foolsgold_weights(histories: Sequence[Sequence[float]], kappa: float) -> list[float]:
    """alpha_i in [0, 1] (Fung, Yoon and Beschastnikh 2018, Algorithm 1), before any normalisation to sum 1.

    As in the authors' code the diagonal of cs is 0 and takes part in the maxima, so no maximum is negative and the
    pardoning quotient m_i / m_j is only formed for m_j > m_i >= 0.
    """
    n = len(histories)
    cs = [[0.0 if i == j else kernels.cosine(histories[i], histories[j]) for j in range(n)] for i in range(n)]
    maxima = [max(row) for row in cs]
    for i in range(n):
        for j in range(n):
            if maxima[i] < maxima[j]:
                cs[i][j] *= maxima[i] / maxima[j]
    raw = [min(1.0, max(0.0, 1 - max(row))) for row in cs]
    # Parallel vectors have cosine 1 up to rounding only; dividing by the maximum would blow the remainder up to 1.
    raw = [value if value > ROUNDING else 0.0 for value in raw]
    if not any(raw):
        return [0.0] * n
    result = []
    for value in raw:
        w = value / max(raw)
        w = 0.99 if w == 1 else w
        result.append(0.0 if w == 0 else min(1.0, max(0.0, kappa * (math.log(w / (1 - w)) + 0.5))))
    return result


def foolsgold(
    updates: ArrayLike,
    sizes: Sequence[float] | None = None,
    *,
    history: ArrayLike | None = None,
    kappa: float = 1.0,
    memory: bool = True,
    normalise: bool = True,
) -> Answer:
    """sum alpha_i d_i / sum alpha_i (Fung, Yoon and Beschastnikh 2018, Algorithm 1), sizes unused.

    Row i of `history` is client i's sum of updates before this round (None: zeros); detail["history"] is the sum after
    it. A client dropped as non-finite adds nothing. Without `memory` this round's updates take the place of the
    history, which stays as it was. Without `normalise` the update is sum alpha_i d_i, as in the paper, and the weights
    are the alphas, which need not sum to 1.
    """
    this = read(updates, sizes)
    before = np.zeros(this.matrix.shape) if history is None else np.array(history, dtype=np.float64)
    after = before.copy()
    if memory:
        for client in this.clients:
            after[client] += this.matrix[client]
    alphas = foolsgold_weights(kernels.as_rows(after[this.clients]) if memory else this.rows, kappa)
    weights = share(alphas) if normalise else alphas
    return this.answer(weights, [a > 0 for a in alphas], history=after, alphas=this.spread(alphas, 0.0))


def distance_ratios(points: Sequence[Sequence[float]]) -> list[float]:
    """G_i / median(G), G_i = sum over j != i of ||x_i - x_j|| (Wang et al. 2022, Algorithm 1, lines 15-19).

    0/0 is 0, so that it passes. The median is 0 only if all points are equal: a point with G_i = 0 equals every other.
    """
    sums = [math.fsum(math.dist(a, b) for j, b in enumerate(points) if j != i) for i, a in enumerate(points)]
    middle = kernels.median(sums)
    return [total / middle if total > 0 else 0.0 for total in sums]


def mean_similarities(rows: Sequence[Sequence[float]]) -> list[float]:
    """v_j: mean cosine of member j with the OTHER members (Algorithm 1, lines 28-31); NaN for a lone member."""
    if len(rows) < 2:
        return [math.nan] * len(rows)
    return [
        math.fsum(kernels.cosine(a, b) for j, b in enumerate(rows) if j != i) / (len(rows) - 1)
        for i, a in enumerate(rows)
    ]


def survivor_labels(
    points: list[list[float]], clusters: int, cluster_labels: Callable[[Array], ArrayLike] | None
) -> list[int]:
    """Cluster of each survivor of filter 1 (Algorithm 1, line 26); fewer than three survivors are one cluster."""
    if len(points) < 3:
        return [0] * len(points)
    if cluster_labels is None:
        if clusters not in (1, 2):
            raise ValueError(f"clusters={clusters} needs cluster_labels: without it the oracle knows 1 and 2")
        cluster_labels = kernels.two_means if clusters == 2 else lambda x: [0] * len(x)
    return [int(label) for label in np.asarray(cluster_labels(np.array(points)))]


def rflbat(
    updates: ArrayLike,
    sizes: Sequence[float] | None = None,
    *,
    clusters: int = 2,
    smallest: float = 0.0,
    eps1: float = 10.0,
    eps2: float = 4.0,
    cluster_labels: Callable[[Array], ArrayLike] | None = None,
    weighting: str = "samples",
    singleton: str | float = "inf",
) -> Answer:
    """Wang et al. 2022 (arXiv 2201.03772), Algorithm 1, lines 13-39: PCA, filter, k-means, cosines, filter, average.

    The score of a one-member cluster is `singleton`. The lowest score wins, of equals the lowest label, among the
    clusters with at least the share `smallest` of the survivors; among all where there is none.
    Detail, per client: "stage", "coordinates", "ratios1", "ratios2", "similarities" (v_j), NaN where not computed, and
    "labels" (-1 where none); also "scores" {label: score of the cluster} and "chosen" (a label or None).
    """
    if weighting not in ("samples", "uniform"):
        raise ValueError(f"weighting must be 'samples' or 'uniform', not {weighting!r}")
    this = read(updates, sizes)
    n = len(this.rows)
    points = [row.tolist() for row in kernels.pca(this.rows, 2)]
    stage = ["kept"] * n
    labels = [-1] * n
    similarities, ratios2 = [math.nan] * n, [math.nan] * n
    scores: dict[int, float] = {}

    ratios1 = distance_ratios(points)
    for i in range(n):
        if ratios1[i] > eps1:
            stage[i] = "filter1"
    survivors = [i for i in range(n) if stage[i] == "kept"]
    found = survivor_labels([points[i] for i in survivors], clusters, cluster_labels)
    for i, label in zip(survivors, found, strict=True):
        labels[i] = label

    for label in sorted(set(found)):
        members = [i for i in survivors if labels[i] == label]
        for i, value in zip(members, mean_similarities([this.rows[i] for i in members]), strict=True):
            similarities[i] = value
        scores[label] = float(singleton) if len(members) == 1 else kernels.median(similarities[i] for i in members)
    large = [label for label in scores if found.count(label) >= smallest * len(survivors)] or list(scores)
    chosen = min(large, key=lambda label: (scores[label], label)) if scores else None

    for i in survivors:
        if labels[i] != chosen:
            stage[i] = "cluster"
    members = [i for i in survivors if labels[i] == chosen]
    for i, ratio in zip(members, distance_ratios([points[i] for i in members]), strict=True):
        ratios2[i] = ratio
        if ratio > eps2:
            stage[i] = "filter2"

    kept = [s == "kept" for s in stage]
    shares = [(size if weighting == "samples" else 1.0) * k for size, k in zip(this.sizes, kept, strict=True)]
    coordinates = np.full((len(this.matrix), 2), math.nan)
    coordinates[this.clients] = np.array(points).reshape(n, 2)
    all_stages = dict(zip(this.clients, stage, strict=True))
    return this.answer(
        share(shares),
        kept,
        stage=[all_stages.get(i, "nonfinite") for i in range(len(this.matrix))],
        coordinates=coordinates,
        labels=this.spread(labels, -1),
        scores=scores,
        chosen=chosen,
        similarities=this.spread(similarities, math.nan),
        ratios1=this.spread(ratios1, math.nan),
        ratios2=this.spread(ratios2, math.nan),
    )
