"""The oracles of the defenses against hand-computed cases, the properties of every defense, and scipy."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from tests.oracles import defenses

ALL = {
    "fedavg": defenses.fedavg,
    "krum": defenses.krum,
    "multikrum": defenses.multikrum,
    "geomed": defenses.geomed,
    "rfa": defenses.rfa,
    "foolsgold": defenses.foolsgold,
    "rflbat": defenses.rflbat,
}
SEEDS = range(5)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", SEEDS)
def test_answer_is_a_weighted_mean_of_the_kept(name, seed):
    updates, sizes = normal(seed, 11, 7) + 0.5, np.random.default_rng(seed).integers(1, 9, 11).tolist()
    answer = ALL[name](updates, sizes)
    assert answer.kept.dtype == bool
    assert answer.kept.any()
    assert math.fsum(answer.weights) == pytest.approx(1, abs=1e-12)
    assert (answer.weights >= 0).all()
    assert ((answer.weights > 0) == answer.kept).all()
    np.testing.assert_allclose(answer.update, answer.weights @ updates, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", SEEDS)
def test_clients_in_another_order_get_the_same_answer(name, seed):
    updates, sizes = normal(seed, 14, 5), np.arange(1, 15)
    # an outlier in front for filter 1, a NaN further on: no row may be found by its place among the survivors
    updates[0] = 1e3
    updates[5, 2] = math.nan
    order = np.random.default_rng(seed).permutation(14)
    one, other = ALL[name](updates, sizes), ALL[name](updates[order], sizes[order])
    assert one.kept[order].tolist() == other.kept.tolist()
    np.testing.assert_allclose(one.weights[order], other.weights, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(one.update, other.update, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_non_finite_rows_are_as_if_absent(name):
    updates, sizes = normal(8, 13, 5), list(range(1, 14))
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


@pytest.mark.parametrize("name", ALL)
def test_nobody_finite_keeps_nobody(name):
    answer = ALL[name](np.full((3, 5), math.nan))
    assert (answer.update.tolist(), answer.kept.tolist(), answer.weights.tolist()) == ([0] * 5, [False] * 3, [0] * 3)


@pytest.mark.parametrize("name", ALL)
def test_one_client_is_taken_as_it_is(name):
    answer = ALL[name]([[3.0, -4.0, 0.1]])
    assert (answer.update.tolist(), answer.kept.tolist(), answer.weights.tolist()) == ([3, -4, 0.1], [True], [1])


@pytest.mark.parametrize("name", [name for name in ALL if name != "foolsgold"])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_equal_updates_are_answered_with_that_update(name, n):
    answer = ALL[name]([[0.1, 0.7, -0.3]] * n)
    np.testing.assert_allclose(answer.update, [0.1, 0.7, -0.3], rtol=1e-15)
    assert answer.kept.sum() == {"krum": 1, "multikrum": n - defenses.default_f(n)}.get(name, n)


@pytest.mark.parametrize("sizes", [[1, 0], [1, -1], [1], [1, math.nan]])
def test_sizes_must_be_positive_and_as_many_as_updates(sizes):
    with pytest.raises(ValueError, match="sizes must be 2 positive numbers"):
        defenses.fedavg([[1.0], [2.0]], sizes)


def test_fedavg_by_hand():
    # (1 * 0 + 3 * 4) / 4 = 3
    answer = defenses.fedavg([[0.0], [4.0]], [1, 3])
    assert (answer.update.tolist(), answer.weights.tolist()) == ([3], [0.25, 0.75])
    assert defenses.fedavg([[0.0], [4.0]]).update.tolist() == [2]


@pytest.mark.parametrize(
    ("n", "f"), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 1), (6, 1), (7, 2), (100, 48), (101, 49)]
)
def test_default_f_is_the_largest_that_krum_admits(n, f):
    assert defenses.default_f(n) == f


def test_krum_by_hand():
    # n = 5, f = 1: two neighbours. 0: 1 + 36; 1: 1 + 25; 6: 9 + 25; 9: 9 + 16; 13: 16 + 49.
    # Distances that are not squared give 7, 6, 8, 7, 11 and another client.
    answer = defenses.krum([[0.0], [1.0], [6.0], [9.0], [13.0]], f=1)
    assert answer.detail["scores"].tolist() == [37, 26, 34, 25, 65]
    assert (answer.update.tolist(), answer.kept.tolist()) == ([9], [False, False, False, True, False])


def test_krum_takes_n_minus_f_minus_2_neighbours():
    # n = 6, f = 1: three neighbours. 2 has 1 + 4 + 9 = 14; with four 5 would win (38), with two 1 would (2).
    answer = defenses.krum([[0.0], [1.0], [2.0], [5.0], [7.0], [8.0]], f=1)
    assert answer.detail["scores"].tolist() == [30, 18, 14, 22, 30, 46]
    assert answer.update.tolist() == [2]


def test_krum_with_few_clients():
    # one neighbour at least; of equal scores the first
    assert defenses.krum([[0.0], [2.0]]).update.tolist() == [0]
    assert defenses.krum([[5.0], [0.0], [1.0]], f=9).detail["scores"].tolist() == [16, 1, 1]
    assert defenses.krum([[5.0], [0.0], [1.0]], f=9).update.tolist() == [0]
    with pytest.raises(ValueError, match="f must be at least 0, not -1"):
        defenses.krum([[0.0]], f=-1)


def test_multikrum_by_hand():
    # scores 37, 26, 34, 25, 65 as above; m = n - f = 4 leaves out 13: mean of 0, 1, 6, 9, whatever the sizes
    updates = [[0.0], [1.0], [6.0], [9.0], [13.0]]
    answer = defenses.multikrum(updates, [1, 100, 1, 1, 1], f=1)
    assert (answer.update.tolist(), answer.weights.tolist()) == ([4], [0.25, 0.25, 0.25, 0.25, 0])
    # m = 2: 9 and 1
    assert defenses.multikrum(updates, f=1, m=2).update.tolist() == [5]
    assert defenses.multikrum(updates, f=1, m=99).kept.all()


def test_geomed_by_hand():
    # on a line: the median, not the mean 23.2
    line = defenses.geomed([[0.0], [1.0], [3.0], [12.0], [100.0]])
    assert line.update[0] == pytest.approx(3, abs=1e-9)
    assert line.detail["converged"]
    # four corners of a convex quadrilateral: the crossing of its diagonals, (1, 1)
    np.testing.assert_allclose(defenses.geomed([[0, 0], [4, 4], [2, 0], [0, 2]]).update, [1, 1], atol=1e-8)
    # an angle of at least 120 degrees: that corner
    np.testing.assert_allclose(defenses.geomed([[0, 0], [10, 1], [-10, 1]]).update, [0, 0], atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 2.0**20])
def test_geomed_leaves_a_mean_that_is_an_update_but_not_the_median(offset):
    # mean 0 is the first update; three of five are at 3
    answer = defenses.geomed(np.array([[0, 0], [3, 0], [3, 0], [3, 0], [-9, 0]]) + offset)
    np.testing.assert_allclose(answer.update - offset, [3, 0], atol=1e-9)
    assert answer.detail["converged"]


@pytest.mark.parametrize("seed", SEEDS)
def test_geomed_against_scipy(seed):
    updates = normal(seed, 11, 5) * 10.0 ** np.arange(-2, 3)
    answer = defenses.geomed(updates, np.arange(1, 12))

    def objective(v):
        return np.linalg.norm(v - updates, axis=1).sum()

    def slope(v):
        offsets = v - updates
        away = np.linalg.norm(offsets, axis=1) > 1e-9
        return (offsets[away] / np.linalg.norm(offsets[away], axis=1, keepdims=True)).sum(axis=0), (~away).sum()

    theirs = minimize(
        objective, np.median(updates, axis=0), jac=lambda v: slope(v)[0], method="BFGS", options={"gtol": 1e-10}
    )
    assert answer.detail["converged"]
    assert objective(answer.update) <= theirs.fun * (1 + 1e-12)
    np.testing.assert_allclose(answer.update, theirs.x, atol=1e-3)
    # the condition of a minimum: the unit vectors cancel, up to length 1 for each update on the spot
    total, on_the_spot = slope(answer.update)
    assert np.linalg.norm(total) <= on_the_spot + 1e-6


def test_geomed_moves_with_the_updates_and_stops_at_the_cap():
    updates = normal(9, 7, 5)
    moved = defenses.geomed(3 * updates + 1e3)
    np.testing.assert_allclose(moved.update, 3 * defenses.geomed(updates).update + 1e3, rtol=1e-9)
    capped = defenses.geomed(updates, iterations=3)
    assert (capped.detail["iterations"], capped.detail["converged"]) == (3, False)


def test_rfa_by_hand():
    # a = 2/3, 1/3; mean 1; b = (2/3)/1, (1/3)/2: shares 0.8, 0.2; v = 0.6
    one = defenses.rfa([[0.0], [3.0]], [2, 1], iterations=1)
    np.testing.assert_allclose(one.weights, [0.8, 0.2])
    np.testing.assert_allclose(one.update, [0.6])
    # then distances 0.6, 2.4: b = (2/3)/0.6 = 10/9, (1/3)/2.4 = 5/36: shares 8/9, 1/9; v = 1/3
    np.testing.assert_allclose(defenses.rfa([[0.0], [3.0]], [2, 1], iterations=2).update, [1 / 3])
    # distances 1 and 2 below nu: everything is divided by nu, the mean stays
    np.testing.assert_allclose(defenses.rfa([[0.0], [3.0]], [2, 1], nu=5).update, [1])
    # four passes are the default
    four = defenses.rfa([[0.0], [3.0]], [2, 1], iterations=4)
    assert defenses.rfa([[0.0], [3.0]], [2, 1]).update == four.update


def test_rfa_converges_to_the_geometric_median():
    updates = normal(10, 9, 5)
    long = defenses.rfa(updates, iterations=1000)
    np.testing.assert_allclose(long.update, defenses.geomed(updates).update, atol=1e-7)


# Unit vectors with cosines ab = 0.6, bc = 0.4, ac = 0.
FOOLS = np.array([[1, 0, 0], [0.6, 0.4, math.sqrt(0.48)], [0, 1, 0]])
# m = 0.6, 0.6, 0.4, so c is pardoned: cs_cb = 0.4 * 0.4 / 0.6; 1 - max = 0.4, 0.4, 11/15; divided by 11/15: 6/11, 6/11,
# 1 (-> 0.99); logit: ln(6/5) + 0.5, the same, ln 99 + 0.5 -> 1. Without the pardon a and b would reach 1.
ALPHA = math.log(1.2) + 0.5


def test_foolsgold_by_hand():
    answer = defenses.foolsgold(FOOLS)
    np.testing.assert_allclose(answer.detail["alphas"], [ALPHA, ALPHA, 1])
    np.testing.assert_allclose(answer.weights, np.array([ALPHA, ALPHA, 1]) / (2 * ALPHA + 1))
    raw = defenses.foolsgold(FOOLS, normalise=False)
    np.testing.assert_allclose(raw.update, ALPHA * FOOLS[0] + ALPHA * FOOLS[1] + FOOLS[2])
    half = defenses.foolsgold(FOOLS, kappa=0.5)
    np.testing.assert_allclose(half.detail["alphas"], [ALPHA / 2, ALPHA / 2, 1])
    tenth = defenses.foolsgold(FOOLS, kappa=0.1)
    np.testing.assert_allclose(tenth.detail["alphas"], [ALPHA / 10, ALPHA / 10, (math.log(99) + 0.5) / 10])


def test_foolsgold_remembers_by_client():
    history = 5 * FOOLS
    updates = np.array([[0.5, 0, 0], [0, 0, 0], [0, 0.25, 0]])
    answer = defenses.foolsgold(updates, history=history)
    np.testing.assert_allclose(answer.detail["alphas"], [ALPHA, ALPHA, 1])
    np.testing.assert_array_equal(answer.detail["history"], history + updates)
    # without memory three directions at right angles are all innocent
    forgetful = defenses.foolsgold(updates, history=history, memory=False)
    assert forgetful.detail["alphas"].tolist() == [1, 1, 1]
    np.testing.assert_array_equal(forgetful.detail["history"], history)
    # a client that sends NaN keeps its history
    broken = defenses.foolsgold([[0.5, 0, 0], [math.nan, 0, 0], [0, 0.25, 0]], history=history)
    np.testing.assert_array_equal(broken.detail["history"], history + updates)


def test_foolsgold_drops_copies_and_keeps_the_rest():
    # 0.1 and 0.3 are no powers of two: the cosines of the copies are 1 up to rounding only
    copies = np.outer([0.1, 0.3, 0.7], [0.1, 0.2, 0.3, 0])
    answer = defenses.foolsgold([*copies, [0, 0, 0, 1]])
    assert answer.weights.tolist() == [0, 0, 0, 1]
    assert answer.kept.tolist() == [False, False, False, True]
    # only copies: 0/0 in the rescaling keeps no client
    alone = defenses.foolsgold(copies)
    assert not alone.kept.any()
    assert alone.update.tolist() == [0, 0, 0, 0]


def test_foolsgold_does_not_punish_disagreement():
    # ab = 0.5, c opposite to both: its maximum is the 0 of the diagonal, not a negative number
    # 1 - max = 0.5, 0.5, 1; logit of a half is 0, plus 0.5.
    angles = np.radians([0, 60, 210])
    answer = defenses.foolsgold(np.column_stack([np.cos(angles), np.sin(angles)]))
    np.testing.assert_allclose(answer.detail["alphas"], [0.5, 0.5, 1])
    # zero updates are similar to none, and opposite ones are dissimilar
    assert defenses.foolsgold([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]).detail["alphas"].tolist() == [1, 1, 1]
    assert defenses.foolsgold([[1.0, 0.0], [-1.0, 0.0]]).detail["alphas"].tolist() == [1, 1]
