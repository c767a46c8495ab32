"""Slow float64 oracles of the numerical operations: plain loops from the papers, blind to the code they check."""

import cmath
import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Point = tuple[float, float]


def as_rows(matrix: ArrayLike) -> list[list[float]]:
    """The rows of a 2-D array as lists of Python floats (float32 input is converted exactly)."""
    return [[float(value) for value in row] for row in np.asarray(matrix, dtype=np.float64)]


def dot(a: Iterable[float], b: Iterable[float]) -> float:
    """sum_k a_k b_k; `fsum` rounds the sum only once, so the order of the terms cannot matter."""
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def mean_row(rows: Sequence[Sequence[float]]) -> list[float]:
    """The average of at least one row, measured from the first, so that equal rows have exactly that row as mean."""
    first = rows[0]
    return [start + math.fsum(row[k] - start for row in rows) / len(rows) for k, start in enumerate(first)]


def centred_rows(matrix: ArrayLike) -> list[list[float]]:
    """d_i - mean(d), exactly zero where all rows are equal; nothing for no rows."""
    rows = as_rows(matrix)
    shifted = [[value - start for value, start in zip(row, rows[0], strict=True)] for row in rows]
    means = [math.fsum(column) / len(rows) for column in zip(*shifted, strict=True)]
    return [[value - mean for value, mean in zip(row, means, strict=True)] for row in shifted]


def gram(matrix: ArrayLike) -> tuple[Array, Array]:
    """(centred, raw): inner products <d_i - m, d_j - m> with m the mean row, and <d_i, d_j>."""
    rows, centred = as_rows(matrix), centred_rows(matrix)
    n = len(rows)
    centred_gram, raw_gram = np.zeros((n, n)), np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            centred_gram[i, j] = dot(centred[i], centred[j])
            raw_gram[i, j] = dot(rows[i], rows[j])
    return centred_gram, raw_gram


def weighted_sum(weights: ArrayLike, matrix: ArrayLike) -> Array:
    """sum_i w_i d_i over the rows whose weight is not zero; the others may hold anything."""
    matrix = np.asarray(matrix, dtype=np.float64)
    used = [(float(w), [float(x) for x in row]) for w, row in zip(np.asarray(weights), matrix, strict=True) if w != 0]
    return np.array([math.fsum(w * row[k] for w, row in used) for k in range(matrix.shape[1])])


def distances_to_sum(weights: ArrayLike, matrix: ArrayLike) -> Array:
    """||d_i - sum_j w_j d_j|| by explicit differences."""
    total = weighted_sum(weights, matrix)
    return np.array([math.dist(row, total) for row in as_rows(matrix)])


def squared_distances(matrix: ArrayLike) -> Array:
    """||d_i - d_j||^2 by explicit differences."""
    rows = as_rows(matrix)
    result = np.zeros((len(rows), len(rows)))
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            result[i, j] = math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return result


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """<a, b> / (||a|| ||b||) in [-1, 1]; 0 if either is the zero vector; exactly 1 for equal vectors.

    Each vector is divided by its largest entry first (no overflow or underflow of squares), and sqrt(x * x) is x for
    every float, which a product of two square roots is not.
    """
    top_a, top_b = max(map(abs, a), default=0.0), max(map(abs, b), default=0.0)
    if top_a == 0 or top_b == 0:
        return 0.0
    a, b = [x / top_a for x in a], [x / top_b for x in b]
    return min(1.0, max(-1.0, dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))))


def cosines(matrix: ArrayLike) -> Array:
    """Cosine similarity of every pair of rows; a zero row has cosine 0 with every row, itself included."""
    rows = as_rows(matrix)
    result = np.zeros((len(rows), len(rows)))
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            result[i, j] = cosine(a, b)
    return result


def pca(matrix: ArrayLike, components: int = 2) -> Array:
    """Scores (N, components) on the top right singular vectors of the centred matrix (Hotelling 1933).

    Each column is right up to its sign. The rows are projected one by one (X v_k, which equals u_k s_k) so that equal
    rows get exactly equal scores. Components beyond min(N, D) are 0.
    """
    centred = centred_rows(matrix)
    scores = np.zeros((len(centred), components))
    if not centred:
        return scores
    _, _, axes = np.linalg.svd(np.array(centred), full_matrices=False)
    for i, row in enumerate(centred):
        for k in range(min(components, len(axes))):
            scores[i, k] = dot(row, axes[k].tolist())
    return scores


def median(values: Iterable[float]) -> float:
    """Middle value; mean of the two middle values for an even count; NaN for none."""
    ordered = sorted(float(value) for value in values)
    n = len(ordered)
    if n == 0:
        return math.nan
    return ordered[n // 2] if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2


def inertia(points: ArrayLike, labels: ArrayLike) -> float:
    """Sum over the clusters of the squared distances to the cluster's own mean (the k-means objective, Lloyd 1982)."""
    rows, names = as_rows(points), [int(label) for label in np.asarray(labels)]
    total = 0.0
    for name in sorted(set(names)):
        members = [row for row, label in zip(rows, names, strict=True) if label == name]
        centre = mean_row(members)
        total += math.fsum((x - c) ** 2 for row in members for x, c in zip(row, centre, strict=True))
    return total


def side(a: Point, b: Point, p: Point) -> int:
    """+1, -1 or 0 for p left of, right of, or on the line from a to b (0 also where rounding could decide)."""
    left, right = (b[0] - a[0]) * (p[1] - a[1]), (b[1] - a[1]) * (p[0] - a[0])
    if abs(left - right) <= 1e-15 * (abs(left) + abs(right)):
        return 0
    return 1 if left > right else -1


def two_means(points: ArrayLike) -> NDArray[np.int64]:
    """Labels (first point 0) of the EXACT optimum of 2-means in the plane (Inaba, Katoh and Imai 1994).

    The two clusters of an optimum are on the two sides of a line, and every such split is met by a line through two of
    the points, those on the line being cut once along it. All of them are tried. Points on the line up to rounding
    count as on it: the side they take changes the inertia by rounding only. Equal points stay together (to part them
    never pays); if all points are equal there is one cluster. First of equals in the order of the enumeration.
    """
    plane = [(float(x), float(y)) for x, y in np.asarray(points, dtype=np.float64)]
    best = tuple(0 for _ in plane)
    lowest = inertia(points, best)
    seen = {best}
    for i, a in enumerate(plane):
        for b in plane[i + 1 :]:
            if a == b:
                continue
            sides = [side(a, b, p) for p in plane]
            # Lexicographic order is the order along any line, without a rounding.
            on_line = sorted({p for p, s in zip(plane, sides, strict=True) if s == 0})
            for cut in range(len(on_line) + 1):
                before = set(on_line[:cut])
                for sign in (1, -1):
                    ones = [s == sign or (s == 0 and p in before) for p, s in zip(plane, sides, strict=True)]
                    labels = tuple(int(one != ones[0]) for one in ones)
                    if labels in seen:
                        continue
                    seen.add(labels)
                    value = inertia(points, labels)
                    if value < lowest:
                        best, lowest = labels, value
    return np.array(best, dtype=np.int64)


def nearest(point: Sequence[float], centres: Sequence[Sequence[float]]) -> int:
    """Index of the closest centre, the first of equals."""
    distances = [math.dist(point, centre) for centre in centres]
    return distances.index(min(distances))


def lloyd(points: ArrayLike, start_centres: ArrayLike, iterations: int) -> tuple[NDArray[np.int64], Array, float]:
    """(labels, centres, inertia) after `iterations` rounds of Lloyd 1982.

    A round assigns each point to its nearest centre and moves each centre to its members' mean; an empty cluster keeps
    its centre. Labels and inertia belong to the returned centres (one more assignment at the end).
    """
    rows, centres = as_rows(points), as_rows(start_centres)
    for _ in range(iterations):
        labels = [nearest(row, centres) for row in rows]
        for c in range(len(centres)):
            members = [row for row, label in zip(rows, labels, strict=True) if label == c]
            if members:
                centres[c] = mean_row(members)
    labels = [nearest(row, centres) for row in rows]
    total = math.fsum(math.dist(row, centres[label]) ** 2 for row, label in zip(rows, labels, strict=True))
    return np.array(labels, dtype=np.int64), np.array(centres), total


def kmeans_plus_plus(points: ArrayLike, uniforms: Sequence[float]) -> list[int]:
    """Indices of the start centres, one per uniform in [0, 1) (Arthur and Vassilvitskii 2007, section 2.2).

    The first is uniform over the points, each next one has probability D(x)^2 / sum D^2, D = distance to the nearest
    centre so far. Inverse CDF: the first index whose cumulated weight EXCEEDS u * total, so that a point of weight 0 is
    never drawn. If every weight is 0 (all points are centres) the draw is uniform.
    """
    rows = as_rows(points)
    chosen: list[int] = []
    for u in uniforms:
        weights = [min((math.dist(row, rows[c]) ** 2 for c in chosen), default=1.0) for row in rows]
        if not any(weights):
            weights = [1.0] * len(rows)
        goal, cumulated, pick = float(u) * math.fsum(weights), 0.0, -1
        for i, weight in enumerate(weights):
            cumulated += weight
            # The last point of positive weight stands in when rounding leaves the cumulated sum short of the goal.
            if weight > 0:
                pick = i
            if cumulated > goal:
                break
        chosen.append(pick)
    return chosen


def gap(log_w_data: Sequence[float], log_w_refs: ArrayLike) -> tuple[Array, Array, int]:
    """(Gap(k), s_k, position chosen) from log W_k of the data (K,) and of B reference sets (B, K).

    Tibshirani, Walther and Hastie 2001, section 3: Gap(k) = mean_b log W_kb - log W_k, s_k = sd_k sqrt(1 + 1/B) with
    the population standard deviation, smallest k with Gap(k) >= Gap(k+1) - s_{k+1}. The largest k if there is none.
    """
    references = as_rows(log_w_refs)
    count = len(references)
    gaps, errors = [], []
    for k, value in enumerate(log_w_data):
        column = [row[k] for row in references]
        mean = math.fsum(column) / count
        gaps.append(mean - float(value))
        errors.append(math.sqrt(math.fsum((x - mean) ** 2 for x in column) / count) * math.sqrt(1 + 1 / count))
    chosen = len(gaps) - 1
    for k in range(len(gaps) - 1):
        if gaps[k] >= gaps[k + 1] - errors[k + 1]:
            chosen = k
            break
    return np.array(gaps), np.array(errors), chosen


def silhouette(points: ArrayLike, labels: ArrayLike) -> float:
    """Mean of (b_i - a_i) / max(a_i, b_i) (Rousseeuw 1987); -inf for one cluster.

    a_i: mean distance to the others of the own cluster; b_i: smallest mean distance to another cluster. The member of a
    one-member cluster counts 0, and so does 0/0.
    """
    rows, names = as_rows(points), [int(label) for label in np.asarray(labels)]
    clusters = {name: [i for i, label in enumerate(names) if label == name] for name in set(names)}
    if len(clusters) < 2:
        return -math.inf
    values = []
    for i, own in enumerate(names):
        if len(clusters[own]) == 1:
            values.append(0.0)
            continue
        sums = {name: math.fsum(math.dist(rows[i], rows[j]) for j in members) for name, members in clusters.items()}
        inside = sums[own] / (len(clusters[own]) - 1)
        outside = min(sums[name] / len(members) for name, members in clusters.items() if name != own)
        larger = max(inside, outside)
        values.append((outside - inside) / larger if larger > 0 else 0.0)
    return math.fsum(values) / len(values)


def lstm_cell(gates: Sequence[complex], cell: complex) -> tuple[complex, complex]:
    """(h, c') of one unit from the sums of its gates i, f, g, o: c' = f c + i g, h = o tanh(c') (Gers et al. 2000)."""
    i, f, o = (1 / (1 + cmath.exp(-gates[k])) for k in (0, 1, 3))
    after = f * cell + i * cmath.tanh(gates[2])
    return o * cmath.tanh(after), after


def lstm_cell_gradients(gates: Sequence[float], cell: float, grad_state: float, grad_cell: float) -> list[float]:
    """Derivatives of grad_state h + grad_cell c' in the four sums and in c, each by a step of 1e-30 i.

    The imaginary part of an analytic function at x + ih, over h, is its derivative up to h^2, and nothing cancels.
    """
    found = []
    for at in range(5):
        moved = [value + 1e-30j * (k == at) for k, value in enumerate([*gates, cell])]
        state, after = lstm_cell(moved[:4], moved[4])
        found.append((grad_state * state + grad_cell * after).imag / 1e-30)
    return found
