"""Plain definitions of the defenses that need more than the updates, one vector at a time in float64.

What the server knows is made by ``rflbat.testing.subject.supplied``; the noise inputs are the engine's, and clusters
are those of scikit-learn. Axes: D parameters.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.cluster import HDBSCAN

from rflbat.defenses.registry import make_defense
from rflbat.randomness import draw_source, uniforms_at
from rflbat.testing.subject import supplied
from tests.oracles import defenses, kernels
from tests.oracles.defenses import Answer, Round
from tests.oracles.kernels import Array


def known(name: str, this: Round) -> dict[str, Any]:
    return supplied(make_defense(name, {}), this.matrix.shape[1])


def stages(this: Round, kept: Sequence[bool], rejected: str) -> list[str]:
    """The stage of every client."""
    found = ["nonfinite"] * len(this.matrix)
    for client, one in zip(this.clients, kept, strict=True):
        found[client] = "kept" if one else rejected
    return found


def length(row: Sequence[float]) -> float:
    return math.hypot(*row)


def fltrust(updates: Any, sizes: Any) -> Answer:
    """sum t_i (|g| / |d_i|) d_i / sum t_i with t_i = max(0, cos(d_i, g))."""
    this = defenses.read(updates, None)
    root = known("fltrust", this)["root"].tolist()
    trusts = [max(0.0, kernels.cosine(row, root)) for row in this.rows]
    total = math.fsum(trusts) or 1.0
    weights = [trust / total for trust in trusts]
    result = np.zeros(this.matrix.shape[1])
    for weight, row in zip(weights, this.rows, strict=True):
        if weight:
            result += weight * length(root) / length(row) * np.array(row)
    detail = {"scores": this.spread(trusts, 0.0), "stage": stages(this, [trust > 0 for trust in trusts], "untrusted")}
    answer = this.answer(weights, [trust > 0 for trust in trusts], **detail)
    return Answer(result, answer.kept, answer.weights, answer.detail)


def clipped(this: Round, kept: list[bool], **detail: Any) -> Answer:
    """The mean of the kept updates, clipped to the median norm of all."""
    weights = [one / max(1, sum(kept)) for one in kept]
    answer = this.answer(weights, kept, **detail)
    result, norms = np.zeros(this.matrix.shape[1]), [length(row) for row in this.rows]
    bound = kernels.median(norms) if norms else 0.0
    for weight, norm, row in zip(weights, norms, this.rows, strict=True):
        result += weight * (min(1.0, bound / norm) if norm else 1.0) * np.array(row)
    return Answer(result, answer.kept, answer.weights, answer.detail)


def angles(rows: list[Any], common: Any) -> Array:
    """1 - cos of the vectors ``common + row``, half the squared distance of the unit vectors; 1 if one is zero."""
    result = np.zeros((len(rows), len(rows)))
    whole = [np.array(row, np.longdouble) + common for row in rows]
    units = [each / np.sqrt((each**2).sum()) if each.any() else None for each in whole]
    for i, a in enumerate(units):
        for j, b in enumerate(units):
            if i != j:
                result[i, j] = 1.0 if a is None or b is None else ((a - b) ** 2).sum() / 2
    # Units of parallel vectors may differ in the last bit.
    return np.where(result < 1e-32, 0.0, result)


def clusters(distances: Array, size: int, single: bool) -> list[int]:
    if len(distances) < max(2, size):
        return [0 if single and len(distances) == size else -1] * len(distances)
    found = HDBSCAN(min_cluster_size=size, min_samples=1, metric="precomputed", allow_single_cluster=single, copy=True)
    labels: list[int] = found.fit(distances).labels_.tolist()
    return labels


def flame(updates: Any, sizes: Any) -> Answer:
    """The majority cluster of the local models by cosine."""
    this = defenses.read(updates, None)
    distances = angles(this.rows, known("flame", this)["params"].numpy())
    kept = [label >= 0 for label in clusters(distances, len(distances) // 2 + 1, True)]
    scores = [row.sum() / max(1, len(row) - 1) for row in distances]
    detail = {"scores": this.spread(scores, math.nan), "stage": stages(this, kept, "minority")}
    return clipped(this, kept, **detail)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    result: Array = powers / powers.sum()
    return result


def deepsight(updates: Any, sizes: Any) -> Answer:
    """Suspicious clusters by NEUP, DDif and the cosines of the biases; 40 noise inputs, 3 seeds."""
    this = defenses.read(updates, None)
    given = known("deepsight", this)
    (classes, inputs), model = given["layers"]["weight"], given["params"].numpy()
    first = len(model) - classes * (inputs + 1)

    def parts(row: Array) -> tuple[Array, Array]:
        return row[first:-classes].reshape(classes, inputs), row[-classes:]

    rows = [np.array(row) for row in this.rows]
    energies = []
    for row in rows:
        weight, bias = parts(row)
        squares = (np.abs(bias) + np.abs(weight).sum(1)) ** 2
        energies.append(squares / (squares.sum() or 1.0))
    counts = [int((each > max(0.01, 1 / classes) * each.max()).sum()) for each in energies]
    suspicious = [count <= kernels.median(counts) / 2 for count in counts]
    kinds = [[clusters(angles([parts(row)[1] for row in rows], 0.0), 2, False)]]
    kinds.append([clusters(euclidean(energies), 2, False)])
    kinds.append([])
    for key in draw_source(0, "defense", 0, "cpu")(3):
        noise = uniforms_at(key, 0, 40 * inputs).reshape(40, inputs).numpy()
        answers = []
        for row in rows:
            (weight, bias), (old_weight, old_bias) = parts(model + row), parts(model)
            ratios = [softmax(weight @ x + bias) / softmax(old_weight @ x + old_bias) for x in noise]
            answers.append(np.mean(ratios, axis=0))
        kinds[2].append(clusters(euclidean(answers), 2, False))
    merged = sum(np.mean([apart(labels) for labels in kind], axis=0) for kind in kinds) / 3
    labels = clusters(merged, 2, False) if rows else []
    shares = []
    for i, label in enumerate(labels):
        own = [j for j, other in enumerate(labels) if j == i or (label >= 0 and other == label)]
        shares.append(sum(suspicious[j] for j in own) / len(own))
    kept = [share < 1 / 3 for share in shares]
    detail = {"scores": this.spread(shares, math.nan), "stage": stages(this, kept, "suspicious")}
    return clipped(this, kept, **detail)


def euclidean(points: list[Array]) -> Array:
    return np.array([[math.dist(a, b) for b in points] for a in points])


def apart(labels: list[int]) -> Array:
    return np.array([[float(a != b) for b in labels] for a in labels])
