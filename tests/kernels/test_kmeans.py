"""K-means against its oracles, the exact optimum and scikit-learn; the rules for the number of clusters."""

import importlib

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans

from rflbat_kernels import KMeans, kmeans
from tests.kernels.closeness import assert_near, normal, uniform
from tests.oracles import kernels as oracle

by_torch = importlib.import_module("rflbat_kernels.kmeans.torch")


def blobs(count: int, points: int = 63, seed: int = 0) -> torch.Tensor:
    """Clusters around points of a rough circle, no two pairs equally far from each other."""
    angle = torch.arange(count, dtype=torch.float64) ** 1.1 * 2.2
    centres = torch.stack([angle.cos(), angle.sin()], 1) * (20 + 3 * torch.arange(count)[:, None])
    return centres[torch.arange(points) % count] + normal(points, 2, seed=seed)


def run(points: torch.Tensor, clusters: int, restarts: int = 10, seed: int = 0, iterations: int = 50) -> KMeans:
    """One set and one number of clusters."""
    draws = uniform(1, 1, restarts, clusters, seed=seed)
    return kmeans(points[None], (clusters,), draws, iterations=iterations)


def same_partition(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.equal(first[:, None] == first[None, :], second[:, None] == second[None, :])


def assert_same(got: KMeans, wanted: KMeans) -> None:
    assert torch.equal(got.labels_MLN, wanted.labels_MLN)
    assert_near(got.centres_MLKH, wanted.centres_MLKH, 1e-12)
    assert_near(got.inertia_ML, wanted.inertia_ML, 1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_two_clusters_reach_the_exact_optimum(seed: int) -> None:
    points = blobs(2, points=9 + 4 * seed, seed=seed) * torch.tensor([1.0, 0.2])
    best = oracle.two_means(points)
    got = run(points, 2)
    assert same_partition(got.labels_MLN[0, 0], torch.from_numpy(best))
    assert got.inertia_ML.item() == pytest.approx(oracle.inertia(points, best), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_two_clusters_reach_the_exact_optimum_of_noise(seed: int) -> None:
    points = normal(21, 2, seed=seed)
    got = run(points, 2, restarts=50)
    assert got.inertia_ML.item() == pytest.approx(oracle.inertia(points, oracle.two_means(points)), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clusters", range(1, 7))
def test_inertia_equals_scikit_learn(clusters: int, dtype: torch.dtype) -> None:
    points = blobs(6, points=101).to(dtype)
    by_sklearn = SklearnKMeans(clusters, n_init=50, tol=0, random_state=0).fit(points.double().numpy())
    got = run(points, clusters, restarts=30)
    assert got.inertia_ML.item() == pytest.approx(by_sklearn.inertia_, rel=1e-9)
    assert same_partition(got.labels_MLN[0, 0], torch.from_numpy(by_sklearn.labels_))
    assert got.inertia_ML.item() == pytest.approx(oracle.inertia(points, got.labels_MLN[0, 0]), rel=1e-9)


@pytest.mark.parametrize("coordinates", [1, 2, 3])
@pytest.mark.parametrize("iterations", [0, 1, 2, 7, 30])
@pytest.mark.parametrize("clusters", [1, 2, 5])
def test_every_iteration_equals_the_oracle(clusters: int, iterations: int, coordinates: int) -> None:
    points = normal(63, coordinates)
    for seed in range(3):
        draws = uniform(clusters, seed=seed)
        start = points[oracle.kmeans_plus_plus(points, draws.tolist())]
        labels, centres, inertia = oracle.lloyd(points, start, iterations)
        got = kmeans(points[None], (clusters,), draws.expand(1, 1, 1, clusters), iterations=iterations)
        assert torch.equal(got.labels_MLN[0, 0], torch.from_numpy(labels))
        assert_near(got.centres_MLKH[0, 0], centres, 1e-13)
        assert got.inertia_ML.item() == pytest.approx(inertia, rel=1e-12)


def test_starts_follow_the_inverse_cdf() -> None:
    """Points 0, 1, 3 from centre 0 have squared distances 0, 1, 9: u below 1/10 draws the second, else the third."""
    points = torch.tensor([[[0.0], [1.0], [3.0]]])
    for first, second, wanted in (
        (0.0, 0.0, [0, 1]),
        (0.33, 0.0999, [0, 1]),
        (0.33, 0.1001, [0, 3]),
        (0.34, 0.19, [1, 0]),
        (0.99, 0.6922, [3, 0]),
        (0.99, 0.6924, [3, 1]),
    ):
        got = kmeans(points, (2,), torch.tensor([[[[first, second]]]]), iterations=0)
        assert got.centres_MLKH.flatten().tolist() == wanted


@pytest.mark.parametrize("clusters", [(1, 2, 3, 4, 5), (4, 1, 3), (3, 3), (2,)])
def test_batched_equals_one_by_one(clusters: tuple[int, ...]) -> None:
    points = torch.stack([blobs(4), normal(63, 2), blobs(2, seed=3) * 1e6])
    most = max(clusters)
    draws = uniform(3, len(clusters), 5, most)
    got = kmeans(points, clusters, draws)
    assert got.labels_MLN.dtype == torch.int64
    assert got.centres_MLKH.shape == (3, len(clusters), most, 2)
    for m in range(3):
        for at, count in enumerate(clusters):
            alone = kmeans(points[m : m + 1], (count,), draws[m : m + 1, at : at + 1, :, :count])
            assert torch.equal(got.labels_MLN[m, at], alone.labels_MLN[0, 0])
            assert_near(got.centres_MLKH[m, at, :count], alone.centres_MLKH[0, 0], 1e-12)
            assert (got.centres_MLKH[m, at, count:] == 0).all()
            assert_near(got.inertia_ML[m, at], alone.inertia_ML[0, 0], 1e-12)


@pytest.mark.parametrize("room", [1, 63 * 5 * 12, 2**40])
def test_how_much_is_computed_at_once_does_not_matter(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points, clusters = torch.stack([blobs(4), normal(63, 2)]), (2, 1, 3, 6, 4)
    draws = uniform(2, 5, 5, 6)
    wanted = kmeans(points, clusters, draws)
    monkeypatch.setattr(by_torch, "CACHED", room)
    assert_same(kmeans(points, clusters, draws), wanted)


@pytest.mark.parametrize("by_set", [False, True])
def test_invalid_points_are_ignored(by_set: bool) -> None:
    points, draws = torch.stack([blobs(3), normal(63, 2)]), uniform(2, 2, 5, 4)
    valid = torch.arange(63) % 3 > 0
    valid = torch.stack([valid, torch.arange(63) > 20]) if by_set else valid.expand(2, 63)
    wanted = [kmeans(points[m, valid[m]][None], (2, 4), draws[m : m + 1]) for m in range(2)]
    points[~valid] = torch.nan
    points[:, 0] = -torch.inf
    got = kmeans(points, (2, 4), draws, valid if by_set else valid[0])
    for m in range(2):
        assert torch.equal(got.labels_MLN[m][:, valid[m]], wanted[m].labels_MLN[0])
        assert (got.labels_MLN[m][:, ~valid[m]] == 0).all()
        assert_near(got.centres_MLKH[m], wanted[m].centres_MLKH[0], 1e-12)
        assert_near(got.inertia_ML[m], wanted[m].inertia_ML[0], 1e-12)


@pytest.mark.parametrize("fill", [torch.nan, torch.inf, 1.0])
def test_no_valid_point_gives_zeros(fill: float) -> None:
    got = kmeans(torch.full((1, 7, 2), fill), (1, 3), uniform(1, 2, 5, 3), torch.zeros(7, dtype=torch.bool))
    assert all((part == 0).all() for part in got)


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("clusters", [1, 2, 3, 5, 9])
def test_more_clusters_than_distinct_points(clusters: int, flush: bool) -> None:
    points = torch.tensor([[1.0, 2.0], [1.0, 2.0], [4.0, 0.5], [1.0, 2.0], [4.0, 0.5], [9.0, 9.0], [9.0, 9.0]])
    draws = uniform(clusters, seed=3)
    start = points[oracle.kmeans_plus_plus(points, draws.tolist())]
    labels, centres, inertia = oracle.lloyd(points, start, 5)
    try:
        # With denormals flushed the smallest distances must stay apart too.
        torch.set_flush_denormal(flush)
        got = kmeans(points[None], (clusters,), draws.expand(1, 1, 1, clusters), iterations=5)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(got.labels_MLN[0, 0], torch.from_numpy(labels))
    assert_near(got.centres_MLKH[0, 0], centres, 1e-14)
    assert got.inertia_ML.item() == pytest.approx(inertia, rel=1e-12, abs=1e-30)
    if clusters >= 3:
        assert got.inertia_ML.item() < 1e-30


def test_equal_points_form_one_cluster() -> None:
    got = kmeans(torch.full((2, 63, 2), 1 / 3), (1, 2, 5), uniform(2, 3, 5, 5))
    assert (got.labels_MLN == 0).all()
    assert (got.inertia_ML == 0).all()
    assert_near(got.centres_MLKH[:, :, 0], torch.full((2, 3, 2), torch.tensor(1 / 3).item()), 1e-15)


@pytest.mark.parametrize("points", [1, 2])
def test_one_and_two_points(points: int) -> None:
    got = kmeans(normal(1, points, 2), (1, 2, 3), uniform(1, 3, 5, 3))
    assert len(got.labels_MLN[0, 1].unique()) == points
    assert_near(got.inertia_ML[0, 1:], [0.0, 0.0], 1e-30)


@pytest.mark.parametrize("scale", [2.0**126, 2.0**-100, 2.0**400, 2.0**-400])
def test_scale_only_scales(scale: float) -> None:
    points, draws = torch.stack([blobs(3), normal(63, 2)]), uniform(2, 2, 5, 3)
    wanted, got = kmeans(points, (2, 3), draws), kmeans(points * scale, (2, 3), draws)
    assert torch.equal(got.labels_MLN, wanted.labels_MLN)
    assert torch.equal(got.centres_MLKH, wanted.centres_MLKH * scale)
    assert torch.equal(got.inertia_ML, wanted.inertia_ML * scale**2)


def test_points_far_from_the_origin() -> None:
    points, draws = blobs(3)[None], uniform(1, 2, 5, 3)
    far = points + 2.0**26
    wanted, got = kmeans(far - 2.0**26, (2, 3), draws), kmeans(far, (2, 3), draws)
    assert torch.equal(got.labels_MLN, wanted.labels_MLN)
    assert_near(got.inertia_ML, wanted.inertia_ML, 1e-9)


def test_draws_decide_and_nothing_else() -> None:
    points, draws = normal(1, 63, 2), uniform(1, 1, 1, 5)
    state = torch.get_rng_state()
    first, second = (kmeans(points, (5,), draws, iterations=1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    other = kmeans(points, (5,), uniform(1, 1, 1, 5, seed=1), iterations=1)
    assert not torch.equal(first.labels_MLN, other.labels_MLN)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_best_restart_wins_and_the_first_of_equals() -> None:
    points, draws = normal(63, 2), uniform(1, 1, 7, 4)
    alone = [kmeans(points[None], (4,), draws[:, :, r : r + 1]) for r in range(7)]
    inertia = torch.stack([item.inertia_ML[0, 0] for item in alone])
    assert len(inertia.unique()) > 1
    got = kmeans(points[None], (4,), draws)
    best = (inertia <= inertia.min() * (1 + 1e-12)).to(torch.uint8).argmax()
    assert torch.equal(got.labels_MLN, alone[best].labels_MLN)
    twice = kmeans(points[None], (4,), torch.cat([draws, draws.flip(2)], 2))
    assert torch.equal(twice.labels_MLN, got.labels_MLN)


def test_a_permutation_of_points_keeps_the_partition() -> None:
    points = blobs(3)
    order = torch.from_numpy(np.random.default_rng(1).permutation(63))
    moved, still = run(points[order], 3), run(points, 3)
    assert same_partition(moved.labels_MLN[0, 0], still.labels_MLN[0, 0][order])
    assert_near(moved.inertia_ML, still.inertia_ML, 1e-12)


def test_any_layout_is_read_and_none_is_written() -> None:
    points, draws = normal(4, 63, 2), uniform(4, 2, 5, 3)
    wanted = kmeans(points, (2, 3), draws)
    strided = torch.full((8, 2, 126), torch.nan, dtype=torch.float64)[::2, :, ::2].mT.copy_(points)
    turned = draws.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert_same(kmeans(strided, (2, 3), turned), wanted)
    assert torch.equal(strided, points)


def test_no_graph_is_built() -> None:
    got = kmeans(normal(1, 63, 2).requires_grad_(), (2,), uniform(1, 1, 5, 2).requires_grad_())
    assert not any(part.requires_grad for part in got)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"points_MNH": torch.ones(7, 2)}, r"points are torch.float32 of shape \(7, 2\)"),
        ({"points_MNH": torch.ones(1, 0, 2)}, "no size of 0"),
        ({"clusters": ()}, "one or more numbers"),
        ({"clusters": (2, 0)}, r"clusters is \(2, 0\)"),
        ({"uniforms_MLRK": torch.rand(1, 2, 5, 2)}, r"shape \(1, 2, 5, 2\); allowed: \(1, 2, R, 3\)"),
        ({"uniforms_MLRK": torch.rand(1, 2, 0, 3)}, r"allowed: \(1, 2, R, 3\)"),
        (
            {"valid_N": torch.ones(6, dtype=torch.bool)},
            r"shape \(6,\); allowed: torch.bool of shape \(7,\) or \(1, 7\)",
        ),
        ({"valid_N": torch.ones(7)}, "torch.float32"),
        ({"iterations": -1}, "iterations is -1"),
    ],
)
def test_wrong_input_is_named(changed: dict[str, object], message: str) -> None:
    arguments = {"points_MNH": torch.ones(1, 7, 2), "clusters": (2, 3), "uniforms_MLRK": torch.rand(1, 2, 5, 3)}
    with pytest.raises(ValueError, match=message):
        kmeans(**{**arguments, **changed})
