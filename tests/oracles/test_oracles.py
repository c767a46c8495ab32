"""The oracles of the numerical operations against hand-computed cases, properties and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.metrics.pairwise import cosine_similarity

from tests.oracles import kernels

SEEDS = range(5)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def first_zero(labels):
    """The same partition into two with the first point in cluster 0."""
    labels = np.asarray(labels)
    return labels ^ labels[0]


def test_gram_by_hand():
    # mean (2, 2); centred rows (-1, -2) and (1, 2)
    centred, raw = kernels.gram([[1, 0], [3, 4]])
    assert centred.tolist() == [[5, -5], [-5, 5]]
    assert raw.tolist() == [[1, 3], [3, 25]]


def test_gram_of_a_large_offset_keeps_the_noise():
    noise = np.round(normal(0, 7, 63) * 1024) / 1024
    exact = kernels.gram(noise)[0]
    np.testing.assert_allclose(kernels.gram(noise + 2.0**30)[0], exact, rtol=1e-12, atol=1e-12)


def test_gram_of_huge_and_of_equal_rows():
    # mean 0: centred and raw are the same
    centred, raw = kernels.gram([[1e38], [-1e38]])
    np.testing.assert_allclose(centred, [[1e76, -1e76], [-1e76, 1e76]])
    np.testing.assert_allclose(raw, centred)
    # 0.1 added three times and divided by 3 is not 0.1
    assert not kernels.gram([[0.1, 0.7]] * 3)[0].any()


def test_weighted_sum_by_hand():
    # (1 + 9) / 4 = 2.5, (0 + 12) / 4 = 3; the row of weight 0 is not looked at
    result = kernels.weighted_sum([0.25, 0.75, 0], [[1, 0], [3, 4], [math.nan, math.inf]])
    assert result.tolist() == [2.5, 3]


def test_squared_distances_and_cosines_by_hand():
    # (3 - 1)^2 + 4^2 = 20
    assert kernels.squared_distances([[1, 0], [3, 4]]).tolist() == [[0, 20], [20, 0]]
    # 45 degrees, 135 degrees, and a zero row that is similar to none
    root = math.sqrt(0.5)
    expected = [[1, root, 0, -root], [root, 1, 0, 0], [0, 0, 0, 0], [-root, 0, 0, 1]]
    np.testing.assert_allclose(kernels.cosines([[1, 0], [2, 2], [0, 0], [-3, 3]]), expected, atol=1e-15)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e38, 1e300])
def test_cosines_at_any_scale_and_against_sklearn(scale):
    matrix = normal(1, 9, 63)
    np.testing.assert_allclose(kernels.cosines(matrix * scale), cosine_similarity(matrix), atol=1e-14)
    assert kernels.cosine(matrix[0] * scale, matrix[0] * scale) == 1.0


def test_pca_by_hand():
    # points t (3, 4) with t = -1, 0, 4: mean t = 1, scores 5 (t - 1) on the line and nothing across it
    scores = kernels.pca([[-3, -4], [0, 0], [12, 16]], 3)
    assert scores.shape == (3, 3)
    np.testing.assert_allclose(scores[:, 0] * np.sign(scores[2, 0]), [-10, -5, 15], atol=1e-12)
    np.testing.assert_allclose(scores[:, 1:], 0, atol=1e-12)


@pytest.mark.parametrize("shape", [(9, 63), (31, 5)])
def test_pca_against_sklearn(shape):
    matrix = normal(2, *shape) * np.linspace(1, 3, shape[1])
    ours, theirs = kernels.pca(matrix, 3), PCA(3, svd_solver="full").fit_transform(matrix)
    np.testing.assert_allclose(ours * np.sign((ours * theirs).sum(axis=0)), theirs, atol=1e-10)


def test_pca_of_equal_rows_gives_equal_scores():
    matrix = np.vstack([[normal(3, 63)] * 5, normal(4, 4, 63)])
    scores = kernels.pca(matrix)
    assert (scores[:5] == scores[0]).all()
    assert not (scores[5:] == scores[0]).any()


@pytest.mark.parametrize("n", [1, 2, 7, 10])
def test_median_against_numpy(n):
    values = normal(5, n)
    assert kernels.median(values) == np.median(values)


def test_median_by_hand():
    assert kernels.median([5, 1, 3, 2]) == 2.5
    assert math.isnan(kernels.median([]))


def test_two_means_by_hand():
    # {0, 1}, {5}: 0.25 + 0.25 = 0.5; {0}, {1, 5} would be 8
    points = [[0, 0], [1, 0], [5, 0]]
    assert kernels.two_means(points).tolist() == [0, 0, 1]
    assert kernels.inertia(points, [0, 0, 1]) == 0.5
    assert kernels.inertia(points, [0, 1, 1]) == 8
    # equal points are exactly at their mean: 0.1 added three times and divided by 3 would not be
    assert kernels.inertia([[0.1, 0.7]] * 3, [0, 0, 0]) == 0


@pytest.mark.parametrize("count", [0, 1, 4])
def test_two_means_of_fewer_than_two_places_is_one_cluster(count):
    assert kernels.two_means(np.full((count, 2), 0.1)).tolist() == [0] * count


def lowest_inertia(points):
    """By brute force over every partition into two."""
    return min(kernels.inertia(points, (0, *rest)) for rest in itertools.product((0, 1), repeat=len(points) - 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_two_means_is_the_best_of_all_partitions(seed):
    for points in (
        normal(seed, 9, 2),
        # few places: equal points and many on a line
        np.random.default_rng(seed).integers(0, 3, (9, 2)).astype(float),
        # on a line that is no line in floating point
        normal(seed, 9, 1) * [0.1, 0.3] + 0.7,
        # second coordinate nothing but rounding, as PCA leaves it for collinear data
        normal(seed, 9, 2) * [1.0, 1e-17],
    ):
        found = kernels.inertia(points, kernels.two_means(points))
        assert found <= lowest_inertia(points) * (1 + 1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_two_means_against_sklearn(seed):
    points = np.vstack([normal(seed, 17, 2), normal(seed + 100, 14, 2) + np.array([3, 1])])
    theirs = KMeans(2, n_init=50, random_state=0).fit(points)
    ours = kernels.two_means(points)
    assert ours.tolist() == first_zero(theirs.labels_).tolist()
    assert kernels.inertia(points, ours) == pytest.approx(theirs.inertia_, rel=1e-12)


def test_lloyd_by_hand():
    points, start = [[0.0], [2.0], [10.0]], [[0.0], [2.0]]
    # round 1: 0 | 2, 10 with centres 0, 6; then 2 is nearer to 0: inertia 0 + 4 + 16
    labels, centres, inertia = kernels.lloyd(points, start, 1)
    assert (labels.tolist(), centres.tolist(), inertia) == ([0, 0, 1], [[0], [6]], 20)
    # round 2: 0, 2 | 10 with centres 1, 10: inertia 1 + 1 + 0, and there it stays
    for iterations in (2, 50):
        labels, centres, inertia = kernels.lloyd(points, start, iterations)
        assert (labels.tolist(), centres.tolist(), inertia) == ([0, 0, 1], [[1], [10]], 2)
    # a point half way goes to the first centre; a centre without points stays
    labels, centres, _ = kernels.lloyd([[0.0], [1.0], [2.0]], [[0.0], [2.0], [99.0]], 1)
    assert (labels.tolist(), centres.tolist()) == ([0, 0, 1], [[0.5], [2], [99]])


def test_lloyd_against_sklearn():
    points = normal(6, 63, 2)
    labels, centres, inertia = kernels.lloyd(points, points[:5], 50)
    theirs = KMeans(5, init=points[:5], n_init=1, max_iter=50, tol=0).fit(points)
    assert labels.tolist() == theirs.labels_.tolist()
    np.testing.assert_allclose(centres, theirs.cluster_centers_, rtol=1e-12)
    assert inertia == pytest.approx(theirs.inertia_, rel=1e-12)


def test_kmeans_plus_plus_by_hand():
    points = [[0.0], [1.0], [3.0]]
    # first: u of three equal parts; then D^2 = 0, 1, 9 of 10: below 0.1 it is point 1, from 0.1 on point 2
    assert kernels.kmeans_plus_plus(points, [0.0, 0.0]) == [0, 1]
    assert kernels.kmeans_plus_plus(points, [0.33, 0.099]) == [0, 1]
    assert kernels.kmeans_plus_plus(points, [0.33, 0.1]) == [0, 2]
    assert kernels.kmeans_plus_plus(points, [0.34, 0.0]) == [1, 0]
    # D^2 from {0, 3}: 0, 1, 0: only point 1 is left; and then all are centres: uniform again
    assert kernels.kmeans_plus_plus(points, [0.0, 0.5, 0.999, 0.5]) == [0, 2, 1, 1]
    assert kernels.kmeans_plus_plus([[7.0]] * 4, [0.99, 0.25, 0.0]) == [3, 1, 0]


def test_gap_by_hand():
    # reference means 3.1, 2.6, 2.1, all standard deviations 0.1; Gap 0.1, 1.6, 1.2; 0.1 < 1.6 - s but 1.6 >= 1.2 - s
    gaps, errors, chosen = kernels.gap([3.0, 1.0, 0.9], [[3.0, 2.5, 2.2], [3.2, 2.7, 2.0]])
    np.testing.assert_allclose(gaps, [0.1, 1.6, 1.2])
    np.testing.assert_allclose(errors, [0.1 * math.sqrt(1.5)] * 3)
    assert chosen == 1


def test_gap_takes_the_error_of_the_next_k_and_can_take_the_last():
    # Gap 1, 1.1 with s = 0, 0.2 sqrt(1.5) = 0.245: 1 >= 1.1 - 0.245 (with s_1 it would be 1 < 1.1)
    assert kernels.gap([0.0, 0.0], [[1.0, 0.9], [1.0, 1.3]])[2] == 0
    # Gap 0, 1, 2 without error: each next one is better
    assert kernels.gap([0.0, 0.0, 0.0], [[0.0, 1.0, 2.0]] * 2)[2] == 2
    assert kernels.gap([0.0], [[1.0]])[2] == 0


def test_silhouette_by_hand():
    # 0 | 1: a = 1, b = (5 + 7) / 2 = 6; 1: a = 1, b = 5; 5: a = 2, b = 4.5; 7: a = 2, b = 6.5
    value = kernels.silhouette([[0.0], [1.0], [5.0], [7.0]], [0, 0, 1, 1])
    assert value == pytest.approx((5 / 6 + 4 / 5 + 2.5 / 4.5 + 4.5 / 6.5) / 4)
    # 0: a = 1, b = 5; 1: a = 1, b = 4; the singleton counts 0
    assert kernels.silhouette([[0.0], [1.0], [5.0]], [7, 7, 2]) == pytest.approx((4 / 5 + 3 / 4) / 3)
    assert kernels.silhouette([[0.0], [1.0]], [0, 0]) == -math.inf
    assert kernels.silhouette([[1.0]] * 4, [0, 0, 1, 1]) == 0


@pytest.mark.parametrize("k", [2, 3, 7, 30])
def test_silhouette_against_sklearn(k):
    points, labels = normal(7, 31, 2), np.arange(31) % k
    assert kernels.silhouette(points, labels) == pytest.approx(silhouette_score(points, labels), abs=1e-12)
