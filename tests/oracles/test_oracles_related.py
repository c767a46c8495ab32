"""The oracles of the related work's defenses against hand-computed cases, their properties, numpy and scipy."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import trim_mean

from tests.oracles import defenses, kernels, related


def autoencoder(updates, sizes=None):
    """Selection with an error that belongs to the row, so that it travels with it."""
    return related.autoencoder_selection(np.abs(np.asarray(updates)).sum(axis=1), updates, sizes)


PER_COORDINATE = {"median": related.median, "trimmed_mean": related.trimmed_mean, "bulyan": related.bulyan}
BY_SIZES = {"norm_clipping": related.norm_clipping, "auror": related.auror, "autoencoder": autoencoder}
ALL = PER_COORDINATE | BY_SIZES
SEEDS = range(5)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def column(*values):
    return [[float(value)] for value in values]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", SEEDS)
def test_weights_belong_to_the_kept_and_sum_to_one(name, seed):
    updates, sizes = normal(seed, 11, 7), np.random.default_rng(seed).integers(1, 9, 11).tolist()
    answer = ALL[name](updates, sizes)
    expected = np.where(answer.kept, sizes if name in BY_SIZES else 1.0, 0.0)
    assert answer.kept.any()
    np.testing.assert_allclose(answer.weights, expected / expected.sum(), rtol=1e-14)
    assert (answer.update <= updates.max(axis=0)).all()
    assert (answer.update >= updates.min(axis=0)).all()


@pytest.mark.parametrize("name", ["auror", "autoencoder"])
def test_a_selection_is_a_weighted_mean_of_the_kept(name):
    updates, sizes = normal(3, 11, 40) + 0.5, list(range(1, 12))
    answer = ALL[name](updates, sizes)
    np.testing.assert_allclose(answer.update, answer.weights @ updates, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", SEEDS)
def test_clients_in_another_order_get_the_same_answer(name, seed):
    # 15 finite rows: bulyan's f is 3, the lowest for which no pair of nearest rows ties
    updates, sizes = normal(seed, 16, 30), np.arange(1, 17)
    updates[5, 2] = math.nan
    order = np.random.default_rng(seed).permutation(16)
    one, other = ALL[name](updates, sizes), ALL[name](updates[order], sizes[order])
    assert one.kept[order].tolist() == other.kept.tolist()
    np.testing.assert_allclose(one.weights[order], other.weights, rtol=1e-12)
    np.testing.assert_allclose(one.update, other.update, rtol=1e-12, atol=1e-15)
    if "scores" in one.detail:
        np.testing.assert_allclose(one.detail["scores"][order], other.detail["scores"], rtol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_non_finite_rows_are_as_if_absent(name):
    updates, sizes = normal(8, 13, 9), list(range(1, 14))
    broken = updates.copy()
    broken[0, 1], broken[4, 0], broken[12, 4] = math.nan, math.inf, -math.inf
    rest = [i for i in range(13) if i not in (0, 4, 12)]
    answer, alone = ALL[name](broken, sizes), ALL[name](updates[rest], [sizes[i] for i in rest])
    np.testing.assert_array_equal(answer.update, alone.update)
    np.testing.assert_array_equal(answer.kept[rest], alone.kept)
    np.testing.assert_array_equal(answer.weights[rest], alone.weights)
    assert not answer.kept[[0, 4, 12]].any()
    assert not answer.weights[[0, 4, 12]].any()
    assert np.flatnonzero(answer.detail["nonfinite"]).tolist() == [0, 4, 12]
    if "scores" in answer.detail:
        np.testing.assert_array_equal(answer.detail["scores"][rest], alone.detail["scores"])
        assert np.isnan(answer.detail["scores"][[0, 4, 12]]).all()


@pytest.mark.parametrize("name", ALL)
def test_nobody_finite_keeps_nobody(name):
    answer = ALL[name](np.full((3, 5), math.nan))
    assert (answer.update.tolist(), answer.kept.tolist(), answer.weights.tolist()) == ([0] * 5, [False] * 3, [0] * 3)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 12])
def test_equal_updates_are_answered_with_that_update(name, n):
    answer = ALL[name]([[0.1, 0.7, -0.3]] * n)
    np.testing.assert_allclose(answer.update, [0.1, 0.7, -0.3], rtol=1e-15)
    assert answer.kept.sum() == ({7: 5, 12: 8}.get(n, n) if name == "bulyan" else n)


@pytest.mark.parametrize("name", [*PER_COORDINATE, "auror"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_common_offset_is_added_to_the_answer(name, seed):
    # eighths and a whole offset, so that nothing is rounded
    updates = np.round(8 * normal(seed, 15, 30)) / 8
    offset = np.arange(30.0) * 64 - 500
    one, other = ALL[name](updates), ALL[name](updates + offset)
    np.testing.assert_array_equal(one.kept, other.kept)
    np.testing.assert_allclose(one.update + offset, other.update, rtol=1e-13)


@pytest.mark.parametrize("name", ALL)
def test_scale_is_kept(name):
    updates = normal(2, 15, 30)
    one, other = ALL[name](updates), ALL[name](updates * 4)
    np.testing.assert_array_equal(one.kept, other.kept)
    np.testing.assert_array_equal(one.update * 4, other.update)


@pytest.mark.parametrize("name", ALL)
def test_sizes_must_be_positive(name):
    with pytest.raises(ValueError, match="sizes must be 3 positive numbers"):
        ALL[name](column(1, 2, 3), [1, 0, 1])


def test_median_by_hand():
    answer = related.median([[0.0, 5.0], [1.0, 5.0], [10.0, -2.0], [3.0, 0.0]])
    assert answer.update.tolist() == [2, 2.5]
    assert (answer.weights.tolist(), answer.kept.all()) == ([0.25] * 4, True)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_median_is_numpys_and_the_trimmed_mean_with_the_largest_f(n):
    updates = normal(n, n, 6)
    np.testing.assert_array_equal(related.median(updates).update, np.median(updates, axis=0))
    np.testing.assert_array_equal(related.median(updates).update, related.trimmed_mean(updates).update)


def test_trimmed_mean_by_hand():
    # column 1: 0 1 5 6 100 without 0 and 100 is 12 / 3; column 2: -9 0 1 2 2 without -9 and a 2 is 3 / 3
    updates = [[0.0, 2.0], [1.0, 2.0], [100.0, 1.0], [5.0, -9.0], [6.0, 0.0]]
    assert related.trimmed_mean(updates, f=1).update.tolist() == [4, 1]
    assert related.trimmed_mean(updates, f=0).update.tolist() == [22.4, -0.8]
    assert related.trimmed_mean(updates).detail["f"] == 2


@pytest.mark.parametrize(("n", "f"), [(3, 1), (7, 2), (8, 3), (10, 0)])
def test_trimmed_mean_is_scipys(n, f):
    updates = normal(n, n, 6)
    expected = trim_mean(updates, (f + 0.5) / n, axis=0)
    np.testing.assert_allclose(related.trimmed_mean(updates, f=f).update, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("n", "f"), [(1, 1), (2, 1), (4, 2), (5, -1)])
def test_trimmed_mean_must_leave_a_value(n, f):
    with pytest.raises(ValueError, match="f must be at least 0 and leave one"):
        related.trimmed_mean(normal(0, n, 2), f=f)


def test_bulyan_by_hand():
    # n = 7, f = 1. Four neighbours: 0: 1 + 9 + 36 + 100; 1: 1 + 4 + 25 + 81; 3: 4 + 9 + 9 + 49 = 71 wins.
    # Three: 0: 137; 1: 107; 6: 16 + 25 + 36 = 77 wins; 10: 122. Two: 0: 101; 1: 1 + 81 = 82 wins; 10: 106; 15: 221.
    # One: 10 and 15 tie at 25, the first wins; then 0 and 15 tie at 225. 0 1 3 6 10 have the median 3;
    # three of them: 3, 1, and 0, which is as far as 6 but lower: 4 / 3.
    updates = column(0, 1, 3, 6, 10, 15, 40)
    answer = related.bulyan(updates)
    assert answer.detail["selected"] == [2, 3, 1, 4, 0]
    assert answer.detail["scores"].tolist() == [4, 2, 0, 1, 3, math.inf, math.inf]
    assert (answer.kept.tolist(), answer.weights.tolist()) == ([True] * 5 + [False] * 2, [0.2] * 5 + [0] * 2)
    assert answer.update.tolist() == [4 / 3]


def test_bulyans_pairs_of_nearest_rows_tie_so_that_the_order_counts():
    # as above, but 15 comes before 10 and then 10 before 0: of 1 3 6 10 15 the nearest to 6 are 6, 3 and 10
    answer = related.bulyan(column(40, 15, 10, 6, 3, 1, 0))
    assert answer.detail["selected"] == [4, 3, 5, 1, 2]
    assert answer.update.tolist() == [19 / 3]
    assert related.bulyan(column(math.nan, 40, 15, 10, 6, 3, 1, 0)).detail["selected"] == [5, 4, 6, 2, 3]


def test_bulyan_scores_the_remaining_set_anew():
    # n = 7, f = 1: 2 wins (1 + 1 + 4 + 9 = 15). Scored once for all, 3 (18) would be second and 0 (39) not selected.
    # Without 2: 0: 35; 1: 1 + 4 + 16; 3: 4 + 4 + 9 = 17; 5 and 6: 14, 5 is first. Without 5, two neighbours:
    # 0: 10; 1: 1 + 4 = 5 wins; 3: 4 + 9; 6: 4 + 9. 0 3 6 8 are left, one neighbour: 6 and 8 (4), 6 is first; then
    # 0 and 3 (9), 0 is first. 0 1 2 5 6 have the median 2: (0 + 1 + 2) / 3.
    rows = column(0, 1, 2, 3, 5, 6, 8)
    assert defenses.krum_scores(rows, 1) == [39, 22, 15, 18, 23, 30, 74]
    answer = related.bulyan(rows, f=1)
    assert answer.detail["selected"] == [2, 4, 1, 5, 0]
    assert answer.update.tolist() == [1]


def test_bulyan_works_by_coordinate():
    # f = 0 selects all clients and trims nothing
    updates = normal(4, 6, 5)
    answer = related.bulyan(updates)
    assert (answer.detail["f"], answer.kept.all()) == (0, True)
    np.testing.assert_allclose(answer.update, updates.mean(axis=0), rtol=1e-13)
    assert related.nearest_to_median([1.0, 9.0, 4.0, 5.0], 2) == [4, 5]
    assert related.nearest_to_median([2.0, 0.0, 1.0], 2) == [1, 0]


@pytest.mark.parametrize(("n", "f"), [(1, 0), (2, 0), (6, 0), (7, 1), (10, 1), (11, 2), (100, 24)])
def test_bulyans_default_f_is_the_largest_it_admits(n, f):
    assert related.bulyan(np.zeros((n, 1))).detail["f"] == f


@pytest.mark.parametrize(("n", "f"), [(6, 1), (10, 2), (2, 0), (9, -1)])
def test_bulyan_needs_enough_clients(n, f):
    with pytest.raises(ValueError, match="f must be at least 0 and n at least 4 f"):
        related.bulyan(normal(0, n, 2), f=f)


def test_norm_clipping_by_hand():
    updates = [[3.0, 4.0], [1.0, 0.0], [6.0, 8.0]]
    # norms 5 1 10, median 5: the last becomes (3, 4); (3 + 2 + 3) / 4 and (4 + 0 + 4) / 4
    answer = related.norm_clipping(updates, [1, 2, 1])
    assert answer.detail["scores"].tolist() == [5, 1, 10]
    assert (answer.detail["bound"], answer.detail["factors"].tolist()) == (5, [1, 1, 0.5])
    assert (answer.update.tolist(), answer.weights.tolist()) == ([2, 2], [0.25, 0.5, 0.25])
    # M = 2: factors 0.4, 1, 0.2; both long ones become (1.2, 1.6)
    np.testing.assert_allclose(related.norm_clipping(updates, bound=2).update, [3.4 / 3, 3.2 / 3], rtol=1e-15)
    np.testing.assert_allclose(related.norm_clipping(updates, bound=10).update, [10 / 3, 4], rtol=1e-15)
    assert related.norm_clipping(updates, bound=math.inf).detail["factors"].tolist() == [1, 1, 1]


def test_norm_clipping_to_a_median_of_zero():
    answer = related.norm_clipping(column(0, 0, 7))
    assert (answer.update.tolist(), answer.kept.all(), answer.detail["factors"].tolist()) == ([0], True, [0, 0, 0])


@pytest.mark.parametrize("bound", [0, -1, math.nan])
def test_norm_clipping_needs_a_positive_bound(bound):
    with pytest.raises(ValueError, match="bound must be above 0"):
        related.norm_clipping(column(1, 2), bound=bound)


def test_auror_by_hand():
    # A: 0 0 0 | 10 10, gap 10. B: cut below 5 costs 4 * 0.25 = 1, the cut 0 0 | 1 1 5 costs 32 / 3: gap 4.5. C: gap 0.
    updates = [[0.0, 0.0, 2.0], [0.0, 1.0, 2.0], [0.0, 0.0, 2.0], [10.0, 1.0, 2.0], [10.0, 5.0, 2.0]]
    answer = related.auror(updates, [1, 1, 1, 1, 9], alpha=4)
    assert answer.detail["gaps"].tolist() == [10, 4.5, 0]
    assert answer.detail["indicative"].tolist() == [True, True, False]
    assert answer.detail["scores"].tolist() == [0, 0, 0, 0.5, 1]
    assert (answer.kept.tolist(), answer.update.tolist()) == ([True] * 4 + [False], [2.5, 0.5, 2])
    assert related.auror(updates, alpha=4, share=0.4).kept.tolist() == [True] * 3 + [False] * 2
    # the distance must exceed alpha: only A is left, or nothing
    assert related.auror(updates, alpha=4.5).kept.tolist() == [True] * 3 + [False] * 2
    assert related.auror(updates, alpha=10).kept.all()
    assert not related.auror(updates, alpha=10).detail["scores"].any()


@pytest.mark.parametrize(
    ("gaps", "alpha", "found"),
    [
        ([30, 0, 0, 0, 0], 30.0, False),
        ([30, 0, 0, 0, 0, 0], 5 + 2 * math.sqrt(125), True),
        ([30, 6, 0, 0, 0, 0], 6 + 2 * math.sqrt(120), True),
    ],
)
def test_aurors_own_alpha_by_hand(gaps, alpha, found):
    # mean 6, deviation sqrt((24^2 + 4 * 6^2) / 5) = 12, and 6 + 24 is not exceeded;
    # mean 5, deviation sqrt((25^2 + 5 * 5^2) / 6); mean 6, deviation sqrt((24^2 + 4 * 6^2) / 6), a fifth would give 30
    updates = np.zeros((4, len(gaps)))
    updates[3] = gaps
    answer = related.auror(updates)
    assert answer.detail["alpha"] == pytest.approx(alpha, rel=1e-15)
    assert answer.kept.tolist() == [True] * 3 + [not found]


def test_auror_ties():
    # 0 | 1 2 and 0 1 | 2 cost the same: the lowest cut wins
    assert related.auror(column(2, 1, 0), alpha=0).kept.tolist() == [True, True, False]
    assert related.split_in_two([0.0, 0.5, 1.0, 1.5, 2.0])[0] == [0, 0, 1, 1, 1]
    # equally large clusters: no minority; equal values: a gap of 0; no client left: the zero update
    assert related.auror(column(5, 0, 5, 0), alpha=0).kept.all()
    assert related.auror(column(3, 3, 3), alpha=0).kept.all()
    answer = related.auror([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]], alpha=0, share=0.3)
    assert (answer.kept.any(), answer.weights.any(), answer.update.tolist()) == (False, False, [0, 0, 0])


@pytest.mark.parametrize("seed", SEEDS)
def test_split_is_the_best_of_all_partitions_and_that_of_the_plane(seed):
    values = normal(seed, 8).tolist()
    labels, gap = related.split_in_two(values)
    points = np.array([[value, 0.0] for value in values])
    every = [kernels.inertia(points, one) for one in itertools.product([0, 1], repeat=8) if any(one)]
    assert kernels.inertia(points, labels) == pytest.approx(min(every), rel=1e-12)
    plane = kernels.two_means(points).tolist()
    assert labels in (plane, [1 - label for label in plane])
    upper, lower = ([v for v, label in zip(values, labels, strict=True) if label == k] for k in (1, 0))
    assert float(gap) == pytest.approx(np.mean(upper) - np.mean(lower), rel=1e-12)


@pytest.mark.parametrize(("name", "value"), [("alpha", -1), ("alpha", math.nan), ("share", -0.1), ("share", 1.5)])
def test_aurors_parameters_have_ranges(name, value):
    with pytest.raises(ValueError, match=name):
        related.auror(column(1, 2), **{name: value})


def test_autoencoder_selection_by_hand():
    # mean 16 / 4: the first three pass, also the one on the threshold; (1 * 1 + 2 * 2 + 1 * 3) / 4 = 2
    answer = related.autoencoder_selection([1, 4, 2, 9], column(1, 2, 3, 100), [1, 2, 1, 5])
    assert (answer.detail["threshold"], answer.detail["scores"].tolist()) == (4, [1, 4, 2, 9])
    assert (answer.kept.tolist(), answer.update.tolist()) == ([True, True, True, False], [2])


def test_autoencoder_threshold_is_of_the_finite_clients():
    # errors 1 2 6, mean 3: neither the NaN row's 100 nor the NaN error count
    answer = related.autoencoder_selection([1, 2, 100, 6, math.nan], column(1, 2, math.nan, 4, 5))
    assert answer.detail["threshold"] == 3
    assert answer.kept.tolist() == [True, True, False, False, False]
    assert answer.detail["nonfinite"].tolist() == [False, False, True, False, True]
    assert answer.update.tolist() == [1.5]


@pytest.mark.parametrize("n", range(1, 30))
def test_autoencoder_keeps_everybody_of_equal_errors(n):
    assert related.autoencoder_selection([0.1] * n, np.ones((n, 1))).kept.all()


@pytest.mark.parametrize("errors", [[1], [1, 2, 3], [1, -1]])
def test_autoencoder_errors_must_match(errors):
    with pytest.raises(ValueError, match="errors must be 2 numbers"):
        related.autoencoder_selection(errors, column(1, 2))
