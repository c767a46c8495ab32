"""K-means by cuML: the way there and back against a stand-in that keeps cuML's rules, and cuML itself where it is."""

import importlib
import inspect
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans

from rflbat_kernels import choose, kmeans, using
from tests.kernels.closeness import assert_near, normal, uniform

by_cuml = importlib.import_module("rflbat_kernels.kmeans.cuml")

ABSENT = "cuml is not installed; pip install 'rflbat[gpu]'"
ANGLE = torch.arange(4, dtype=torch.float64) ** 1.1 * 2.2
BLOBS = torch.stack([ANGLE.cos(), ANGLE.sin()], 1)[torch.arange(63) % 4] * 20 + normal(63, 2)


class StandIn:
    """cuml.cluster.KMeans on the host: what version 26.10 refuses is refused, and Lloyd is scikit-learn's."""

    fits: list[dict[str, Any]]

    def __init__(self, *, n_clusters, init, n_init, max_iter, tol, output_type):
        assert (n_init, output_type, init.shape[0]) == (1, "cupy", n_clusters)
        assert tol > 0
        self.clusters, self.init, self.rounds = n_clusters, init, max_iter

    def fit(self, X, y=None, sample_weight=None):
        assert (X.dtype, X.flags.c_contiguous, len(X) >= self.clusters) == (np.float64, True, True)
        assert np.isfinite(X).all()
        assert sample_weight.sum() > 0
        if self.rounds and len(np.unique(X[sample_weight > 0], axis=0)) >= self.clusters:
            found = SklearnKMeans(self.clusters, init=self.init, n_init=1, max_iter=self.rounds, tol=0)
            found.fit(X, sample_weight=sample_weight)
            self.labels_, self.cluster_centers_ = found.labels_, found.cluster_centers_
        else:  # where scikit-learn would warn: the starts
            self.labels_ = ((X[:, None] - self.init[None]) ** 2).sum(2).argmin(1).astype(np.int32)
            self.cluster_centers_ = self.init.copy()
        self.fits.append({"X": X, "weights": sample_weight, "init": self.init, "fitted": self})
        return self


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Put the stand-in where CuPy and cuML are imported from; gives what it was asked to fit."""
    StandIn.fits = []
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(from_dlpack=np.from_dlpack))
    package, cluster = ModuleType("cuml"), ModuleType("cuml.cluster")
    package.cluster, cluster.KMeans = cluster, StandIn
    monkeypatch.setitem(sys.modules, "cuml", package)
    monkeypatch.setitem(sys.modules, "cuml.cluster", cluster)
    return StandIn.fits


def assert_same(got, wanted, tolerance: float = 1e-9) -> None:
    assert torch.equal(got.labels_MLN, wanted.labels_MLN)
    assert got.labels_MLN.dtype == torch.int64
    assert_near(got.centres_MLKH, wanted.centres_MLKH, tolerance)
    assert_near(got.inertia_ML, wanted.inertia_ML, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clusters", [(4,), (1, 2, 4), (4, 1, 3)])
def test_same_as_the_reference(clusters: tuple[int, ...], dtype: torch.dtype, fits: list[dict[str, Any]]) -> None:
    points = torch.stack([BLOBS, 1e6 + 100 * BLOBS.flip(1)]).to(dtype)
    draws = uniform(2, len(clusters), 5, max(clusters))
    assert_same(by_cuml.kmeans(points, clusters, draws), kmeans(points, clusters, draws))
    assert len(fits) == 2 * len(clusters) * 5


@pytest.mark.parametrize("by_set", [False, True])
def test_invalid_points_weigh_nothing(by_set: bool, fits: list[dict[str, Any]]) -> None:
    points, draws = torch.stack([BLOBS, BLOBS.flip(0) * 3]), uniform(2, 2, 5, 4)
    valid = torch.arange(63) % 5 > 0
    if by_set:
        valid = torch.stack([valid, torch.arange(63) > 20])
    points = torch.where(valid[..., None], points, torch.tensor([torch.nan, torch.inf]))
    got = by_cuml.kmeans(points, (2, 4), draws, valid)
    assert_same(got, kmeans(points, (2, 4), draws, valid))
    assert (got.labels_MLN.movedim(1, 0)[:, ~valid.expand(2, 63)] == 0).all()
    for fit, mask in zip((fits[0], fits[-1]), valid.expand(2, 63), strict=True):
        assert np.array_equal(fit["weights"], mask.numpy())


def test_starts_are_those_of_the_reference(fits: list[dict[str, Any]]) -> None:
    points, draws = normal(1, 63, 2), uniform(1, 2, 3, 5)
    for restart in range(3):
        fits.clear()
        one = draws[:, :, restart : restart + 1]
        got = by_cuml.kmeans(points, (5, 2), one, iterations=0)
        assert_same(got, kmeans(points, (5, 2), one, iterations=0), 1e-15)
        assert [fit["init"].shape for fit in fits] == [(5, 2), (2, 2)]


def test_the_best_restart_wins_and_the_first_of_equals(fits: list[dict[str, Any]]) -> None:
    points, draws = normal(1, 63, 2), uniform(1, 1, 7, 4)
    alone = [by_cuml.kmeans(points, (4,), draws[:, :, r : r + 1]) for r in range(7)]
    inertia = torch.stack([each.inertia_ML[0, 0] for each in alone])
    assert len(inertia.unique()) > 1
    best = alone[(inertia <= inertia.min() * (1 + 1e-12)).to(torch.uint8).argmax()]
    assert_same(by_cuml.kmeans(points, (4,), draws), best, 1e-15)
    twice = torch.cat([draws, draws.flip(2)], 2)
    assert_same(by_cuml.kmeans(points, (4,), twice), best, 1e-15)


def test_nothing_is_copied_on_the_way(fits: list[dict[str, Any]]) -> None:
    points, weights = BLOBS.clone(), torch.ones(63, dtype=torch.float64)
    start = points[:4].clone()
    labels, centres = by_cuml._fit(points, weights, start, 5)
    [fit] = fits
    for tensor, array in ((points, fit["X"]), (weights, fit["weights"]), (start, fit["init"])):
        assert tensor.data_ptr() == array.ctypes.data
    assert labels.data_ptr() == fit["fitted"].labels_.ctypes.data
    assert centres.data_ptr() == fit["fitted"].cluster_centers_.ctypes.data


def test_points_stay_as_they_are(fits: list[dict[str, Any]]) -> None:
    strided = torch.full((2, 2, 126), torch.nan, dtype=torch.float64)[:, :, ::2].mT.copy_(BLOBS.expand(2, 63, 2))
    before, draws = strided.clone(), uniform(2, 1, 3, 4)
    assert_same(by_cuml.kmeans(strided.requires_grad_(), (4,), draws), kmeans(before, (4,), draws))
    assert torch.equal(strided, before)


@pytest.mark.parametrize("points", [1, 2, 3])
def test_fewer_points_than_clusters(points: int, fits: list[dict[str, Any]]) -> None:
    got = by_cuml.kmeans(normal(1, points, 2), (2, 4), uniform(1, 2, 3, 4))
    assert got.labels_MLN.shape == (1, 2, points)
    assert got.centres_MLKH.shape == (1, 2, 4, 2)
    assert len(got.labels_MLN[0, 1].unique()) == points
    assert_near(got.inertia_ML[0, 1], 0.0, 1e-30)


@pytest.mark.parametrize("fill", [torch.nan, 1.0])
def test_no_valid_point_gives_zeros(fill: float, fits: list[dict[str, Any]]) -> None:
    nobody = torch.zeros(7, dtype=torch.bool)
    got = by_cuml.kmeans(torch.full((1, 7, 2), fill), (1, 3), uniform(1, 2, 5, 3), nobody)
    assert all((part == 0).all() for part in got)


def test_it_takes_what_the_reference_takes(fits: list[dict[str, Any]]) -> None:
    assert inspect.signature(by_cuml.kmeans) == inspect.signature(kmeans)
    with pytest.raises(ValueError, match="iterations is -1"):
        by_cuml.kmeans(torch.ones(1, 7, 2), (2,), uniform(1, 1, 5, 2), iterations=-1)
    assert fits == []


def test_it_is_chosen_by_name_on_a_device_alone(fits: list[dict[str, Any]]) -> None:
    assert choose("kmeans", "cuml", "cuda").function is by_cuml.kmeans
    assert choose("kmeans", device="cuda").name == "torch"
    with pytest.raises(ValueError, match="kmeans=cuml runs only on cuda, not on cpu; allowed on cpu: torch"):
        choose("kmeans", "cuml")
    with (
        using({"kmeans": "cuml"}),
        pytest.raises(ValueError, match="kmeans=cuml runs only on cuda, not on cpu"),
    ):
        kmeans(torch.ones(1, 7, 2), (2,), uniform(1, 1, 5, 2))


@pytest.mark.parametrize("package", ["cupy", "cuml"])
def test_a_missing_package_is_named_before_any_work(
    package: str, fits: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    said = rf"kmeans=cuml needs {package}, which cannot be imported here \(.*\); pip install 'rflbat\[gpu\]'$"
    with pytest.raises(ImportError, match=said):
        choose("kmeans", "cuml", "cuda")
    with pytest.raises(ImportError, match=said), using({"kmeans": "cuml"}):
        pytest.fail("the block was entered")


def test_cuml_takes_what_it_is_given() -> None:
    """Against cuML's own signatures; no device is needed to import it."""
    cluster = pytest.importorskip("cuml.cluster", reason=ABSENT, exc_type=ImportError)
    cupy = pytest.importorskip("cupy", reason=ABSENT, exc_type=ImportError)
    made = inspect.signature(cluster.KMeans.__init__)
    made.bind(None, n_clusters=2, init=None, n_init=1, max_iter=5, tol=by_cuml.TOLERANCE, output_type="cupy")
    inspect.signature(cluster.KMeans.fit).bind(None, None, sample_weight=None)
    assert callable(cupy.from_dlpack)


@pytest.mark.gpu
@pytest.mark.parametrize("clusters", [(4,), (1, 2, 4)])
def test_cuml_gives_the_clusters_of_the_reference(clusters: tuple[int, ...]) -> None:
    pytest.importorskip("cuml", reason=ABSENT, exc_type=ImportError)
    points, draws = torch.stack([BLOBS, 1e3 + 7 * BLOBS]).cuda(), uniform(2, len(clusters), 5, 4)[..., : max(clusters)]
    valid = torch.arange(63, device="cuda") % 5 > 0
    wanted = kmeans(points, clusters, draws.cuda(), valid)
    with using({"kmeans": "cuml"}):
        got = kmeans(points, clusters, draws.cuda(), valid)
    assert all(part.is_cuda for part in got)
    assert torch.equal(got.labels_MLN, wanted.labels_MLN)
    torch.testing.assert_close(got.centres_MLKH, wanted.centres_MLKH, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.inertia_ML, wanted.inertia_ML, rtol=1e-7, atol=1e-9)


@pytest.mark.gpu
def test_cuml_copes_with_borders() -> None:
    pytest.importorskip("cuml", reason=ABSENT, exc_type=ImportError)
    draws = uniform(1, 2, 3, 4).cuda()
    few = by_cuml.kmeans(normal(1, 3, 2).cuda(), (2, 4), draws)
    assert len(few.labels_MLN[0, 1].unique()) == 3
    nobody = by_cuml.kmeans(normal(1, 7, 2).cuda(), (2, 4), draws, torch.zeros(7, dtype=torch.bool, device="cuda"))
    assert all((part == 0).all() for part in nobody)
    points = normal(1, 63, 2).cuda()
    starts, wanted = (run(points, (2, 4), draws[:, :, :1], iterations=0) for run in (by_cuml.kmeans, kmeans))
    assert torch.equal(starts.labels_MLN, wanted.labels_MLN)
