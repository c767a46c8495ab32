"""Every defense as a formula in numpy: the expected result in float64, and the numpy baseline in float32.

The tests compare them with the oracles. In float64 a matrix is converted one block of columns at a time, to avoid a
second copy of it. Axes: N clients of the round, D parameters, n clients that are kept, C coordinates of a block.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.baselines import kept_by_rflbat, sklearn_rflbat

Array = NDArray[Any]
BLOCK = 2**15
"""Columns of a block in float64."""


@dataclass(frozen=True)
class Settings:
    """Parameters of the defenses of a case.

    Attributes:
        f: assumed number of malicious clients.
        bound: bound of norm clipping.
        detector: trained network of the autoencoder: name -> tensor.
    """

    f: int
    bound: float = 1.0
    detector: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Matrix:
    """Updates, and the float type of the computation.

    Attributes:
        rows: ``(N, D)`` float32.
        exact: compute in float64 by blocks, instead of in float32 at once.
    """

    rows: Array
    exact: bool

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self) -> Iterator[Array]:
        """Yield ``(N, C)`` blocks in the float type of the computation."""
        width = BLOCK if self.exact else self.rows.shape[1]
        for first in range(0, self.rows.shape[1], width):
            block = self.rows[:, first : first + width]
            yield block.astype(np.float64) if self.exact else block

    def gram(self) -> Array:
        """Inner products ``(N, N)``."""
        return sum(block @ block.T for block in self.blocks())

    def mix(self, weights_N: Array) -> Array:
        """The weighted sum of the rows, ``(D,)``."""
        return np.concatenate([weights_N.astype(block.dtype) @ block for block in self.blocks()])

    def mean_of(self, kept_N: Array) -> Array:
        """The mean of the rows that are kept."""
        return self.mix(kept_N / kept_N.sum())

    def by_column(self, formula: Callable[[Array], Array]) -> Array:
        """Apply a formula to every ``(N, C)`` block and concatenate the results."""
        return np.concatenate([formula(block) for block in self.blocks()])

    def distances(self, point_D: Array) -> Array:
        """Distances of the rows to a point, ``(N,)``."""
        square_N, first = 0.0, 0
        for block in self.blocks():
            apart = block - point_D[first : first + block.shape[1]].astype(block.dtype)
            square_N, first = square_N + np.einsum("nc,nc->n", apart, apart), first + block.shape[1]
        return np.sqrt(square_N)


def squared_distances(gram_NN: Array) -> Array:
    """``||d_i - d_j||^2`` from the inner products; +inf on the diagonal, which excludes self-neighbours."""
    norm_N = gram_NN.diagonal()
    squared_NN = np.maximum(norm_N[:, None] + norm_N[None] - 2 * gram_NN, 0)
    np.fill_diagonal(squared_NN, np.inf)
    return squared_NN


def multikrum(matrix: Matrix, settings: Settings, taken: int | None = None) -> Array:
    """Mean of the ``taken`` (default N - f) updates with the smallest sums over their N - f - 2 nearest others."""
    clients = len(matrix)
    nearest_NN = np.sort(squared_distances(matrix.gram()), axis=1)[:, : clients - settings.f - 2]
    order_N = np.argsort(nearest_NN.sum(1), kind="stable")
    kept_N = np.zeros(clients)
    kept_N[order_N[: clients - settings.f if taken is None else taken]] = 1
    return matrix.mean_of(kept_N)


def weiszfeld(matrix: Matrix, settings: Settings, passes: int, least: float) -> Array:
    """Re-weight by the inverse distance to the last point, from the mean, until no weight moves by 1e-10."""
    weight_N = np.full(len(matrix), 1 / len(matrix))
    for _ in range(passes):
        pull_N = 1 / np.maximum(matrix.distances(matrix.mix(weight_N)), least)
        before_N, weight_N = weight_N, pull_N / pull_N.sum()
        if np.abs(weight_N - before_N).max() <= (1e-10 if matrix.exact else 1e-7):
            break
    return matrix.mix(weight_N)


def foolsgold(matrix: Matrix, settings: Settings) -> Array:
    """Weights by the largest cosine to another client, with pardoning and the logit."""
    gram_NN = matrix.gram()
    norm_N = np.sqrt(gram_NN.diagonal())
    alike_NN = gram_NN / np.outer(norm_N, norm_N)
    np.fill_diagonal(alike_NN, 0)
    closest_N = alike_NN.max(1)
    ratio_NN = closest_N[:, None] / closest_N[None]
    alike_NN = np.where(ratio_NN < 1, alike_NN * ratio_NN, alike_NN)
    weight_N = np.clip(1 - alike_NN.max(1), 0, 1)
    weight_N = weight_N / weight_N.max()
    weight_N[weight_N == 1] = 0.99
    with np.errstate(divide="ignore"):
        weight_N = np.clip(np.log(weight_N / (1 - weight_N)) + 0.5, 0, 1)
    return matrix.mean_of(weight_N)


def trimmed_mean(matrix: Matrix, settings: Settings) -> Array:
    """Mean of each coordinate without its f largest and f smallest values."""
    f = settings.f
    return matrix.by_column(lambda block: np.sort(block, axis=0)[f : len(matrix) - f].mean(0))


def bulyan(matrix: Matrix, settings: Settings) -> Array:
    """Select N - 2f updates one by one with Krum; average the N - 4f selected values nearest their median."""
    clients, f = len(matrix), settings.f
    squared_NN = squared_distances(matrix.gram())
    near_NN = np.argsort(squared_NN, axis=1, kind="stable")[:, :-1]
    sorted_NN = np.take_along_axis(squared_NN, near_NN, axis=1)
    left_N, selected = np.ones(clients, bool), []
    for _ in range(clients - 2 * f):
        there_NN = left_N[near_NN]
        counted_NN = there_NN & (np.cumsum(there_NN, axis=1) <= max(1, left_N.sum() - f - 2))
        score_N = np.where(left_N, np.where(counted_NN, sorted_NN, 0).sum(1), np.inf)
        selected.append(int(score_N.argmin()))
        left_N[selected[-1]] = False

    def nearest_mean(block: Array) -> Array:
        values = np.sort(block[selected], axis=0)
        # In float32 a median between two values is rounded, which may change the nearest value.
        apart = np.abs(values - np.median(values.astype(np.float64), axis=0))
        order = np.argsort(apart, axis=0, kind="stable")
        return np.take_along_axis(values, order[: len(selected) - 2 * f], axis=0).mean(0)

    return matrix.by_column(nearest_mean)


def norm_clipping(matrix: Matrix, settings: Settings) -> Array:
    """Mean of the updates, each no longer than the bound."""
    norm_N = sum(np.einsum("nc,nc->n", block, block) for block in matrix.blocks()) ** 0.5
    return matrix.mix(np.minimum(1, settings.bound / norm_N) / len(matrix))


def _two_means(block: Array) -> tuple[Array, Array]:
    """Return the distance of the centres of each column's best split, and a mask of the smaller part ``(N, C)``."""
    clients = len(block)
    order = np.argsort(block, axis=0, kind="stable")
    values = np.take_along_axis(block, order, axis=0).astype(np.float64)
    values -= values.mean(0)
    low_count = np.arange(1, clients)[:, None]
    low = np.cumsum(values, axis=0)[:-1]
    # The sum of squares between the parts; both sums are 0 together, so the upper one is minus the lower.
    between = low**2 / low_count + low**2 / (clients - low_count)
    cut = between.argmax(0)
    size, low_sum = cut + 1, np.take_along_axis(low, cut[None], axis=0)[0]
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(clients)[:, None], axis=0)
    smaller = np.where(2 * size < clients, rank < size, rank >= size) & (2 * size != clients)
    return -low_sum / (clients - size) - low_sum / size, smaller


def auror(matrix: Matrix, settings: Settings) -> Array:
    """Mean without clients that are in the smaller part of most coordinates whose centres are far apart."""
    gap_D = matrix.by_column(lambda block: _two_means(block)[0])
    limit, counts_N, first = gap_D.mean() + 2 * gap_D.std(), np.zeros(len(matrix)), 0
    for block in matrix.blocks():
        indicative_C = gap_D[first : first + block.shape[1]] > limit
        first += block.shape[1]
        if indicative_C.any():
            counts_N += _two_means(block[:, indicative_C])[1].sum(1)
    kept_N = counts_N <= (gap_D > limit).sum() / 2
    return matrix.mean_of(kept_N.astype(np.float64))


def autoencoder(matrix: Matrix, settings: Settings) -> Array:
    """Mean of the updates whose reconstruction error is at most the average."""
    net = settings.detector
    x_NS = (matrix.rows[:, net["index_S"]].astype(np.float64) - net["mean_S"]) / net["scale_S"]
    hidden = np.maximum(x_NS @ net["weight1_HS"].T + net["bias1_H"], 0)
    code = np.maximum(hidden @ net["weight2_CH"].T + net["bias2_C"], 0)
    hidden = np.maximum(code @ net["weight3_HC"].T + net["bias3_H"], 0)
    error_N = np.square(hidden @ net["weight4_SH"].T + net["bias4_S"] - x_NS).mean(1)
    return matrix.mean_of((error_N <= error_N.mean()).astype(np.float64))


def rflbat(matrix: Matrix, settings: Settings) -> Array:
    """RFLBAT: exact by the eigenvectors of the centred inner products, otherwise by scikit-learn."""
    if not matrix.exact:
        return sklearn_rflbat(matrix.rows)
    gram_NN = matrix.gram()
    centred_NN = gram_NN - gram_NN.mean(0) - gram_NN.mean(1)[:, None] + gram_NN.mean()
    value, vector = np.linalg.eigh(centred_NN)
    norm_N = np.sqrt(gram_NN.diagonal())
    cosines_NN = gram_NN / np.outer(norm_N, norm_N)
    points = vector[:, -2:] * np.sqrt(np.maximum(value[-2:], 0))
    kept_N = kept_by_rflbat(points, lambda members: cosines_NN[np.ix_(members, members)])
    return matrix.mean_of(kept_N.astype(np.float64))


FORMULAS: dict[str, Callable[[Matrix, Settings], Array]] = {
    "fedavg": lambda matrix, settings: matrix.mean_of(np.ones(len(matrix))),
    "rflbat": rflbat,
    "foolsgold": foolsgold,
    "krum": partial(multikrum, taken=1),
    "multikrum": multikrum,
    "geomed": partial(weiszfeld, passes=200, least=1e-12),
    "rfa": partial(weiszfeld, passes=4, least=1e-6),
    "median": lambda matrix, settings: matrix.by_column(lambda block: np.median(block, axis=0)),
    "trimmed_mean": trimmed_mean,
    "bulyan": bulyan,
    "norm_clipping": norm_clipping,
    "auror": auror,
    "autoencoder": autoencoder,
}
"""(updates, settings) -> ``(D,)``; all clients have the same weight. The keys are the names of rflbat's registry."""
