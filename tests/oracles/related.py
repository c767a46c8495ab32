"""Slow float64 oracles of the related work's defenses: plain loops from the papers, blind to the code they check.

Conventions as in `defenses`: a row with NaN or Inf is dropped before anything else, and n below counts the finite rows.
Where the answer is no weighted mean of updates (a rule per coordinate) `update` is the answer and the weights are equal
over the kept. Comparisons that decide who is kept use exact fractions, so that no rounding breaks a tie.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from tests.oracles import defenses, kernels
from tests.oracles.defenses import Answer, Round


def mean(values: Sequence[float]) -> float:
    """The sum, rounded once, over the count."""
    return math.fsum(values) / len(values)


def columns(this: Round) -> list[list[float]]:
    """The values of each coordinate over the finite rows, which must be at least one."""
    return [[row[k] for row in this.rows] for k in range(this.matrix.shape[1])]


def nobody(this: Round, **detail: object) -> Answer:
    """The answer where no row is finite: the update is zero."""
    return this.answer([], [], **detail)


def median(updates: ArrayLike, sizes: Sequence[float] | None = None) -> Answer:
    """Median of each coordinate (Yin et al. 2018, Definition 1), sizes unused."""
    this = defenses.read(updates, sizes)
    n = len(this.rows)
    if n == 0:
        return nobody(this)
    result = [kernels.median(column) for column in columns(this)]
    return replace(this.answer([1 / n] * n, [True] * n), update=np.array(result))


def trimmed_mean(updates: ArrayLike, sizes: Sequence[float] | None = None, *, f: int | None = None) -> Answer:
    """Mean of each coordinate without its f largest and f smallest values (Yin et al. 2018, Definition 2).

    f = beta n of the paper, sizes unused; the default is the largest that leaves a value, n - 2 f >= 1: the
    median.
    """
    this = defenses.read(updates, sizes)
    n = len(this.rows)
    if f is not None and (f < 0 or (n > 0 and n - 2 * f < 1)):
        raise ValueError(f"f must be at least 0 and leave one of {n} values, not {f}")
    if n == 0:
        return nobody(this, f=0 if f is None else f)
    f = (n - 1) // 2 if f is None else f
    result = [mean(sorted(column)[f : n - f]) for column in columns(this)]
    return replace(this.answer([1 / n] * n, [True] * n, f=f), update=np.array(result))


def bulyan_selection(rows: Sequence[Sequence[float]], f: int, theta: int) -> list[int]:
    """The theta winners of Krum, each among those that are left, in the order of their selection; of equals the first.

    f stays the same, the number of neighbours shrinks with the set: n_left - f - 2, at least one. With one neighbour
    the two closest rows always tie, so for f = 1 or 2 the order of the clients can decide who is selected.
    """
    left = list(range(len(rows)))
    selected = []
    for _ in range(theta):
        scores = defenses.krum_scores([rows[i] for i in left], f)
        winner = left[scores.index(min(scores))]
        selected.append(winner)
        left.remove(winner)
    return selected


def nearest_to_median(values: Sequence[float], beta: int) -> list[float]:
    """The beta values nearest to the median of all; of two that are equally far the lower."""
    middle = kernels.median(values)
    return sorted(sorted(values), key=lambda value: abs(value - middle))[:beta]


def bulyan(updates: ArrayLike, sizes: Sequence[float] | None = None, *, f: int | None = None) -> Answer:
    """El Mhamdi, Guerraoui and Rouault 2018, sizes unused.

    theta = n - 2 f updates by repeated Krum; then per coordinate the mean of the beta = theta - 2 f selected values
    nearest to their median. A given f needs n >= 4 f + 3; the default is the largest such f, and 0 also for n < 3.
    Kept are the theta selected; detail["scores"] is the position in the order of selection, +inf for the others, NaN
    for the non-finite.
    """
    this = defenses.read(updates, sizes)
    n = len(this.rows)
    if f is not None and (f < 0 or (n > 0 and n < 4 * f + 3)):
        raise ValueError(f"f must be at least 0 and n at least 4 f + 3, not f={f} with n={n}")
    f = max(0, (n - 3) // 4) if f is None else f
    if n == 0:
        return nobody(this, scores=this.spread([], math.nan), selected=[], f=f)
    theta = n - 2 * f
    beta = theta - 2 * f
    selected = bulyan_selection(this.rows, f, theta)
    result = [mean(nearest_to_median([column[i] for i in selected], beta)) for column in columns(this)]
    kept = [i in selected for i in range(n)]
    scores = [float(selected.index(i)) if i in selected else math.inf for i in range(n)]
    answer = this.answer(
        defenses.share([float(k) for k in kept]),
        kept,
        scores=this.spread(scores, math.nan),
        selected=[this.clients[i] for i in selected],
        f=f,
    )
    return replace(answer, update=np.array(result))


def norm_clipping(updates: ArrayLike, sizes: Sequence[float] | None = None, *, bound: float | None = None) -> Answer:
    """sum w_i d_i / max(1, ||d_i|| / M), w_i = n_i / sum n (Sun et al. 2019), without the noise.

    M is `bound` > 0, or the median norm of the round. If that median is 0 every update is clipped to 0.
    The weights are the w_i: detail["factors"] holds 1 / max(1, ||d_i|| / M) and detail["scores"] the norms.
    """
    if bound is not None and not bound > 0:
        raise ValueError(f"bound must be above 0, not {bound}")
    this = defenses.read(updates, sizes)
    n = len(this.rows)
    if n == 0:
        unknown = this.spread([], math.nan)
        return nobody(this, scores=unknown, factors=unknown, bound=math.nan if bound is None else float(bound))
    norms = [math.hypot(*row) for row in this.rows]
    limit = kernels.median(norms) if bound is None else float(bound)
    divisors = [max(1.0, norm / limit) if limit > 0 else math.inf for norm in norms]
    clipped = [[value / divisor for value in row] for row, divisor in zip(this.rows, divisors, strict=True)]
    weights = defenses.share(this.sizes)
    answer = this.answer(
        weights,
        [True] * n,
        scores=this.spread(norms, math.nan),
        factors=this.spread([1 / divisor for divisor in divisors], math.nan),
        bound=limit,
    )
    return replace(answer, update=kernels.weighted_sum(weights, np.array(clipped)))


def exact_mean(values: Sequence[Fraction]) -> Fraction:
    return sum(values, Fraction(0)) / len(values)


def squares(values: Sequence[Fraction]) -> Fraction:
    """Sum of the squared distances to the mean."""
    middle = exact_mean(values)
    return sum(((value - middle) ** 2 for value in values), Fraction(0))


def split_in_two(values: Sequence[float]) -> tuple[list[int], Fraction]:
    """(labels, distance of the two means) of the EXACT optimum of 2-means on a line; label 0 is the lower cluster.

    Both clusters of an optimum are runs of the sorted values, so all n - 1 cuts are tried; of equals the lowest wins.
    No optimum parts equal values, unless all are equal. One value is one cluster, at distance 0.
    """
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    exact = [Fraction(values[i]) for i in order]
    labels = [0] * len(values)
    if len(values) < 2:
        return labels, Fraction(0)
    costs = [squares(exact[:cut]) + squares(exact[cut:]) for cut in range(1, len(exact))]
    best = 1 + costs.index(min(costs))
    for i in order[best:]:
        labels[i] = 1
    return labels, exact_mean(exact[best:]) - exact_mean(exact[:best])


def smaller_cluster(labels: Sequence[int]) -> list[int]:
    """Members of the smaller of the clusters 0 and 1; none if they are equally large."""
    ones = sum(labels)
    if 2 * ones == len(labels):
        return []
    smaller = int(2 * ones < len(labels))
    return [i for i, label in enumerate(labels) if label == smaller]


def is_indicative(gaps: Sequence[Fraction], alpha: float | None) -> list[bool]:
    """gap > alpha; without alpha gap > mean + 2 standard deviations (population) of all gaps, decided exactly."""
    if alpha is not None:
        return [gap > alpha for gap in gaps]
    middle = exact_mean(gaps)
    return [gap > middle and (gap - middle) ** 2 > 4 * squares(gaps) / len(gaps) for gap in gaps]


def auror(
    updates: ArrayLike, sizes: Sequence[float] | None = None, *, alpha: float | None = None, share: float = 0.5
) -> Answer:
    """Shen, Tople and Saxena 2016: cluster every coordinate, reject clients that are often in the smaller cluster.

    A coordinate is indicative if the two centres of its 2-means are more than `alpha` >= 0 apart. The paper sets alpha
    per coordinate from trials without an attack; None here is mean + 2 standard deviations of the round's distances
    (which fewer than D / 5 coordinates exceed, so none for D < 6). A client is malicious if it is in the smaller
    cluster of more than a `share` (tau) of the indicative coordinates; the others are averaged by their sizes.
    Detail: "scores" (that share per client, 0 if no coordinate is indicative, NaN for the non-finite), "gaps",
    "indicative", "alpha".
    """
    if alpha is not None and not alpha >= 0:
        raise ValueError(f"alpha must be at least 0, not {alpha}")
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in 0..1, not {share}")
    this = defenses.read(updates, sizes)
    n = len(this.rows)
    splits = [split_in_two(column) for column in columns(this)]
    gaps = [gap for _, gap in splits]
    indicative = is_indicative(gaps, alpha)
    counts = [0] * n
    for (labels, _), used in zip(splits, indicative, strict=True):
        for i in smaller_cluster(labels) if used else []:
            counts[i] += 1
    scores = [count / max(1, sum(indicative)) for count in counts]
    kept = [score <= share for score in scores]
    threshold = float(exact_mean(gaps)) + 2 * math.sqrt(squares(gaps) / len(gaps)) if alpha is None else float(alpha)
    return this.answer(
        defenses.share([size * k for size, k in zip(this.sizes, kept, strict=True)]),
        kept,
        scores=this.spread(scores, math.nan),
        gaps=np.array([float(gap) for gap in gaps]),
        indicative=np.array(indicative),
        alpha=threshold,
    )


def autoencoder_selection(errors: ArrayLike, updates: ArrayLike, sizes: Sequence[float] | None = None) -> Answer:
    """Mean by sizes of the clients with e_i <= mean(e) (Li et al. 2020, arXiv 2002.00211, dynamic threshold).

    `errors` are the N squared reconstruction errors of the clients' surrogate vectors. The mean is over the finite
    clients; one whose error is not finite counts as non-finite. Detail: "scores" (the errors, NaN for the non-finite)
    and "threshold" (NaN without finite clients).
    """
    matrix = np.array(updates, dtype=np.float64)
    values = [float(error) for error in np.asarray(errors, dtype=np.float64)]
    if len(values) != len(matrix) or any(error < 0 for error in values):
        raise ValueError(f"errors must be {len(matrix)} numbers of at least 0, not {errors!r}")
    for i, error in enumerate(values):
        if not math.isfinite(error):
            matrix[i] = math.nan
    this = defenses.read(matrix, sizes)
    exact = [Fraction(values[i]) for i in this.clients]
    threshold = exact_mean(exact) if exact else Fraction(0)
    kept = [error <= threshold for error in exact]
    return this.answer(
        defenses.share([size * k for size, k in zip(this.sizes, kept, strict=True)]),
        kept,
        scores=this.spread([float(error) for error in exact], math.nan),
        threshold=float(threshold) if exact else math.nan,
    )
