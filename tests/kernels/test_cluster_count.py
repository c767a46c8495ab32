"""Gap statistic and silhouette against loops and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score

from rflbat_kernels import distances, gap_statistic, kmeans, silhouette
from tests.kernels.closeness import assert_near, normal, uniform
from tests.kernels.test_kmeans import blobs
from tests.oracles import kernels as oracle

COUNTS = tuple(range(1, 11))


def chosen(points: torch.Tensor, counts: tuple[int, ...], seed: int) -> int:
    """Number of clusters by the gap statistic with 5 reference sets in the bounding box."""
    low, high = points.amin(0), points.amax(0)
    sets = torch.cat([points[None], low + (high - low) * uniform(5, len(points), 2, seed=seed)])
    found = kmeans(sets, counts, uniform(6, len(counts), 10, counts[-1], seed=seed))
    return counts[int(gap_statistic(found.inertia_ML, counts, len(points)))]


@pytest.mark.parametrize("seed", range(3))
def test_the_gap_statistic_finds_one_and_three_clusters(seed: int) -> None:
    assert chosen(normal(63, 2, seed=seed), COUNTS, seed) == 1
    assert chosen(blobs(3, seed=seed), COUNTS, seed) == 3
    assert chosen(blobs(3, seed=seed), COUNTS[1:], seed) == 3
    assert chosen(blobs(3, seed=seed), (1, 2), seed) == 2


@pytest.mark.parametrize("references", [1, 2, 5])
def test_the_gap_statistic_equals_the_oracle(references: int) -> None:
    answers = set()
    for seed in range(60):
        counts = COUNTS[: 1 + seed % 7]
        inertia = (uniform(1 + references, len(counts), seed=seed) + 0.05).cumsum(1).flip(1)
        inertia[0] *= torch.linspace(1, 0.1, len(counts)) ** (seed % 3)
        log_w = inertia.log().numpy()
        wanted = oracle.gap(log_w[0].tolist(), log_w[1:])[2]
        assert gap_statistic(inertia, counts, 63).item() == wanted
        answers.add(wanted)
    assert len(answers) > 3


def test_the_error_of_the_next_count_is_the_one_that_is_subtracted() -> None:
    """Gap = 0, 1, 1 and s = 0, 3, 0: with s_{k+1} the first is chosen, with s_k the second."""
    e = math.e
    spread = 3 / math.sqrt(1.5)
    inertia = torch.tensor([[1.0, 1 / e, 1 / e], [1.0, e**spread, 1.0], [1.0, e**-spread, 1.0]], dtype=torch.float64)
    assert gap_statistic(inertia, (1, 2, 3), 63).item() == 0
    assert gap_statistic(inertia.flip(1), (1, 2, 3), 63).item() == 0
    inertia[1:, 1] = 1
    assert gap_statistic(inertia, (1, 2, 3), 63).item() == 1


RISING = torch.tensor([[9.0, 4.0, 1.0, 0.2], [9.0, 8.0, 7.0, 6.0], [9.0, 8.0, 7.0, 6.0]])
"""No count is chosen before the last."""


@pytest.mark.parametrize(
    ("n_valid", "limit", "wanted"),
    [
        *((63, None, 3), (5, None, 3), (4, None, 2), (3, None, 1), (2, None, 0), (1, None, 0), (0, None, 0)),
        *((63, 9, 3), (63, 4, 3), (63, 3, 2), (63, 2, 1), (63, 1, 0), (63, 0, 0), (3, 3, 1), (4, 2, 1)),
    ],
)
def test_no_count_above_a_limit_is_chosen(n_valid: int, limit: int | None, wanted: int) -> None:
    bound = None if limit is None else torch.tensor(limit)
    for count in (n_valid, torch.tensor(n_valid)):
        choice = gap_statistic(RISING, (1, 2, 3, 4), count, limit=bound)
        assert choice.item() == wanted
        assert choice.dtype == torch.int64
        assert choice.shape == ()


def test_the_limit_speaks_of_counts_not_of_positions() -> None:
    assert gap_statistic(RISING[:, 1:], (2, 3, 4), 63, limit=torch.tensor(3)).item() == 1
    assert gap_statistic(RISING[:, 1:], (2, 3, 4), 63, limit=torch.tensor(1)).item() == 0


def test_zero_inertia_is_guarded() -> None:
    assert gap_statistic(torch.zeros(6, 3), (1, 2, 3), 63).item() == 0
    data = torch.tensor([[4.0, 0.0, 0.0], [4.0, 2.0, 1.0], [4.0, 2.0, 1.0]])
    assert gap_statistic(data, (1, 2, 3), 63).item() == 1


@pytest.mark.parametrize(
    ("shape", "clusters", "message"),
    [
        ((1, 3), (1, 2, 3), r"shape \(1, 3\)"),
        ((6, 2), (1, 2, 3), r"shape \(6, 2\); allowed: \(1 \+ references, 3\)"),
        ((6, 3), (1, 3, 2), r"clusters is \(1, 3, 2\); allowed: ascending"),
    ],
)
def test_wrong_input_of_the_gap_statistic_is_named(
    shape: tuple[int, int], clusters: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        gap_statistic(torch.ones(shape), clusters, 63)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_silhouette_equals_the_oracle_and_scikit_learn(dtype: torch.dtype) -> None:
    points, counts = blobs(4).to(dtype), (2, 3, 4, 7, 9)
    labels = kmeans(points[None], counts, uniform(1, 5, 3, 9)).labels_MLN[0]
    got = silhouette(distances(points), labels, counts)
    assert_near(got, [oracle.silhouette(points, row) for row in labels], 1e-13)
    assert_near(got, [silhouette_score(points.double(), row) for row in labels], 1e-6)
    assert got.argmax() == 2


def test_silhouette_of_lone_members_and_equal_points() -> None:
    points = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [9.0, 9.0]], dtype=torch.float64)
    labels = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 0, 1, 0], [0, 0, 1, 0, 1], [0, 1, 2, 3, 4]])
    got = silhouette(distances(points), labels, (4, 2, 2, 5))
    assert_near(got, [oracle.silhouette(points, row) for row in labels], 1e-15)


def test_silhouette_of_fewer_than_two_clusters_is_minus_infinity() -> None:
    labels = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 1, 1]])
    got = silhouette(distances(normal(3, 2)), labels, (1, 2, 2))
    assert got[:2].tolist() == [-torch.inf, -torch.inf]
    assert got[2].isfinite()


def test_silhouette_ignores_invalid_points() -> None:
    points, valid = blobs(3), torch.arange(63) % 4 > 0
    labels = kmeans(points[None], (2, 3), uniform(1, 2, 5, 3), valid).labels_MLN[0]
    apart = distances(points)
    wanted = silhouette(apart[valid][:, valid], labels[:, valid], (2, 3))
    apart[~valid], labels[:, ~valid] = torch.nan, 1
    apart[:, ~valid] = torch.inf
    assert_near(silhouette(apart, labels, (2, 3), valid), wanted, 1e-14)
    assert silhouette(apart, labels, (2, 3), torch.zeros_like(valid)).tolist() == [-torch.inf, -torch.inf]


def test_silhouette_permutes_with_its_points_and_its_names() -> None:
    points = blobs(3)
    labels = kmeans(points[None], (3,), uniform(1, 1, 5, 3)).labels_MLN[0]
    wanted = silhouette(distances(points), labels, (3,))
    order = torch.from_numpy(np.random.default_rng(1).permutation(63))
    assert_near(silhouette(distances(points[order]), labels[:, order], (3,)), wanted, 1e-14)
    assert_near(silhouette(distances(points), 2 - labels, (3,)), wanted, 1e-14)


def test_wrong_input_of_silhouette_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(1, 3\)"):
        silhouette(torch.ones(3, 2), torch.zeros(1, 3, dtype=torch.int64), (2,))
    with pytest.raises(ValueError, match=r"allowed: \(N, N\) and \(2, N\)"):
        silhouette(torch.ones(3, 3), torch.zeros(1, 3, dtype=torch.int64), (2, 3))
    with pytest.raises(ValueError, match="the mask"):
        silhouette(torch.ones(3, 3), torch.zeros(1, 3, dtype=torch.int64), (2,), torch.ones(3))


def test_no_graph_is_built() -> None:
    apart = distances(normal(5, 2)).requires_grad_()
    assert not silhouette(apart, torch.tensor([[0, 0, 1, 1, 1]]), (2,)).requires_grad
    assert not gap_statistic(uniform(3, 2).requires_grad_(), (1, 2), 5).requires_grad
