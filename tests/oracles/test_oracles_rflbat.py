"""The oracle of RFLBAT against hand-computed cases, the open points of the paper, and scikit-learn's parts."""

import math

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from tests.oracles import defenses, kernels

SEEDS = range(5)
# Three honest clients that disagree and, far away, three malicious ones that agree. In the plane PCA keeps distances.
STORY = [[1, 0], [0, 1], [-1, 0], [10, 10], [10, 11], [11, 10]]


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def test_rflbat_by_hand():
    # Honest cosines 0, -1, 0: v = -1/2, 0, -1/2, median -1/2.
    # Malicious: m3m4 = m3m5 = 210 / sqrt(200 * 221), m4m5 = 220/221.
    answer = defenses.rflbat(STORY, [1, 2, 3, 4, 5, 6])
    near, far = 210 / math.sqrt(200 * 221), 220 / 221
    np.testing.assert_allclose(
        answer.detail["similarities"], [-0.5, 0, -0.5, near, (near + far) / 2, (near + far) / 2], atol=1e-15
    )
    assert answer.detail["scores"] == pytest.approx({0: -0.5, 1: (near + far) / 2})
    assert answer.detail["stage"] == ["kept"] * 3 + ["cluster"] * 3
    # honest distances sqrt 2, 2, sqrt 2: G = 2 + sqrt 2, 2 sqrt 2, 2 + sqrt 2, median 2 + sqrt 2
    middle = 2 * math.sqrt(2) / (2 + math.sqrt(2))
    np.testing.assert_allclose(answer.detail["ratios2"], [1, middle, 1] + [math.nan] * 3)
    # (1 (1, 0) + 2 (0, 1) + 3 (-1, 0)) / 6, the weight of the kept and not of all 21
    np.testing.assert_allclose(answer.update, [-1 / 3, 1 / 3])
    np.testing.assert_allclose(defenses.rflbat(STORY, range(1, 7), weighting="uniform").update, [0, 1 / 3], atol=1e-15)
    # in the plane PCA keeps the distances
    np.testing.assert_allclose(
        kernels.squared_distances(answer.detail["coordinates"]), kernels.squared_distances(STORY), atol=1e-12
    )


def test_rflbat_takes_cosines_of_the_updates_as_sent_and_coordinates_of_the_centred_ones():
    # with 100 added to everything all directions agree, while nothing moves in the plane
    answer = defenses.rflbat(np.array(STORY) + 100.0)
    assert min(answer.detail["scores"].values()) > 0.99
    np.testing.assert_allclose(
        kernels.squared_distances(answer.detail["coordinates"]), kernels.squared_distances(STORY), atol=1e-9
    )


def test_filter1_drops_above_eps1_and_keeps_at_it():
    # k equal updates and one off: G = d for each of the k, k d for the other; the ratio is k exactly
    eleven = defenses.rflbat([[0.1, 0.3]] * 11 + [[7.0, 1.0]])
    assert eleven.detail["stage"] == ["kept"] * 11 + ["filter1"]
    assert eleven.detail["ratios1"].tolist() == [1] * 11 + [11]
    ten = defenses.rflbat([[0.1, 0.3]] * 10 + [[7.0, 1.0]])
    assert ten.detail["ratios1"][10] == 10
    assert ten.detail["stage"] == ["kept"] * 10 + ["cluster"]
    assert defenses.rflbat([[0.1, 0.3]] * 10 + [[7.0, 1.0]], eps1=9.99).detail["stage"][10] == "filter1"


def test_filter2_drops_above_eps2_and_keeps_at_it_and_at_0_by_0():
    five = defenses.rflbat([[0.1, 0.3]] * 5 + [[7.0, 1.0]], clusters=1)
    assert five.detail["stage"] == ["kept"] * 5 + ["filter2"]
    assert five.detail["ratios2"].tolist() == [1] * 5 + [5]
    assert five.update.tolist() == pytest.approx([0.1, 0.3])
    assert defenses.rflbat([[0.1, 0.3]] * 4 + [[7.0, 1.0]], clusters=1).kept.all()
    assert defenses.rflbat([[0.1, 0.3]] * 4 + [[7.0, 1.0]], clusters=1, eps2=3.99).detail["stage"][4] == "filter2"
    # with thresholds below 1, 0/0 still keeps all clients
    assert defenses.rflbat([[0.1, 0.3]] * 7, eps1=0.5, eps2=0.5).kept.all()


def test_the_median_of_filter2_is_that_of_the_chosen_cluster():
    # chosen: six on a line through 0 (cosines +-1), one of them far for its cluster (G = 5 d) but not among all
    chosen = [[1.0, 0.0]] * 3 + [[-1.0, 0.0]] * 3 + [[0.0, 40.0]]
    other = [[1000.0, 1000.0]] * 7
    answer = defenses.rflbat(chosen + other, eps1=1e9)
    # G inside: 6 + sqrt(1601) for the six, 6 sqrt(1601) for the last: ratio 240.07 / 46.01 = 5.2
    assert answer.detail["stage"] == ["kept"] * 6 + ["filter2"] + ["cluster"] * 7
    assert answer.detail["ratios2"][6] == pytest.approx(6 * math.sqrt(1601) / (6 + math.sqrt(1601)))
    assert answer.detail["ratios1"][6] < 4


def test_the_cosine_mean_leaves_the_client_itself_out():
    # Two orthogonal updates (cosine 0) against five with cosines 0.25 / 1.25 = 0.2. With self included the pair has 1/2
    # and the five (1 + 0.8) / 5 = 0.36, and the wrong cluster would be chosen.
    five = np.hstack([np.full((5, 1), 0.5), np.eye(5), np.zeros((5, 2))])
    pair = np.hstack([np.zeros((2, 6)), np.eye(2)])
    answer = defenses.rflbat(np.vstack([five, pair]), cluster_labels=lambda points: [3] * 5 + [1] * 2)
    assert answer.detail["scores"] == pytest.approx({1: 0.0, 3: 0.2})
    assert answer.detail["stage"] == ["cluster"] * 5 + ["kept"] * 2


def test_a_lone_client_is_chosen_only_if_nothing_else_is_left():
    points = [[1.0, 0.0], [1.0, 0.2], [0.0, 9.0]]
    assert defenses.rflbat(points).detail["scores"][1] == math.inf
    assert defenses.rflbat(points).kept.tolist() == [True, True, False]
    # three that are exactly alike: with 1.0 the lone one ties and the lowest label wins
    alike = [[2.0, 2.0], [1.0, 1.0], [9.0, 9.0], [1.0, 1.0]]
    by_hand = {"cluster_labels": lambda x: [1, 1, 0, 1]}
    assert defenses.rflbat(alike, **by_hand).kept.tolist() == [True, True, False, True]
    assert defenses.rflbat(alike, singleton=1.0, **by_hand).kept.tolist() == [False, False, True, False]
    # only singletons: a client is still kept
    assert defenses.rflbat(points, cluster_labels=lambda x: [2, 0, 1]).kept.tolist() == [False, True, False]


def test_fewer_than_three_survivors_are_all_kept():
    def never(points):
        raise AssertionError("nothing to cluster")

    assert defenses.rflbat([[1.0, 0.0], [-5.0, 3.0]], cluster_labels=never).kept.all()
    # filter 1 leaves two of three: G = 4, 3, 5 over the median 4
    answer = defenses.rflbat([[0.0], [1.0], [3.0]], eps1=1.0, cluster_labels=never)
    assert answer.detail["stage"] == ["kept", "kept", "filter1"]
    # and none with a threshold that no client meets
    nobody = defenses.rflbat([[0.0], [1.0], [3.0]], eps1=0.0)
    assert nobody.detail["stage"] == ["filter1"] * 3
    assert nobody.detail["chosen"] is None
    assert not nobody.kept.any()


def test_rflbat_details_of_a_dropped_row():
    answer = defenses.rflbat([*STORY[:2], [math.nan, 0], *STORY[2:]])
    assert answer.detail["stage"] == ["kept", "kept", "nonfinite", "kept", "cluster", "cluster", "cluster"]
    assert answer.detail["labels"].tolist() == [0, 0, -1, 0, 1, 1, 1]
    assert np.isnan(answer.detail["coordinates"]).any(axis=1).tolist() == [False, False, True] + [False] * 4


def test_rflbat_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="weighting must be 'samples' or 'uniform', not 'size'"):
        defenses.rflbat(STORY, weighting="size")
    with pytest.raises(ValueError, match="clusters=3 needs cluster_labels"):
        defenses.rflbat(STORY, clusters=3)


def rflbat_of_arrays(updates, sizes):
    """Algorithm 1 once more from scikit-learn's parts, kept clients and update only."""
    x = PCA(2, svd_solver="full").fit_transform(updates)

    def passes(chosen, eps):
        sums = np.linalg.norm(x[chosen][:, None] - x[chosen][None], axis=2).sum(axis=1)
        return chosen[sums / np.median(sums) <= eps]

    left = passes(np.arange(len(updates)), 10)
    labels = KMeans(2, n_init=50, random_state=0).fit(x[left]).labels_
    scores = []
    for label in (0, 1):
        cos = cosine_similarity(updates[left[labels == label]])
        count = len(cos)
        scores.append(np.median((cos.sum(axis=1) - 1) / (count - 1)) if count > 1 else np.inf)
    kept = passes(left[labels == np.argmin(scores)], 4)
    return set(kept.tolist()), np.average(updates[kept], axis=0, weights=sizes[kept])


@pytest.mark.parametrize("seed", SEEDS)
def test_rflbat_against_sklearn(seed):
    sizes = np.random.default_rng(seed).integers(1, 100, 31)
    # honest noise, thirteen that agree on one direction, one far outlier
    updates = normal(seed, 31, 63)
    updates[5:18] = 0.3 * updates[5:18] + 2 * normal(seed + 50, 63)
    updates[22] *= 1e3
    answer = defenses.rflbat(updates, sizes)
    kept, update = rflbat_of_arrays(updates, sizes)
    assert set(np.flatnonzero(answer.kept).tolist()) == kept
    np.testing.assert_allclose(answer.update, update, rtol=1e-10, atol=1e-12)
    assert answer.detail["stage"][22] == "filter1"


@pytest.mark.parametrize("seed", SEEDS)
def test_rflbat_is_blind_to_a_common_scale(seed):
    updates = normal(seed, 21, 7)
    one, other = defenses.rflbat(updates), defenses.rflbat(updates * 2.0**-80)
    assert one.detail["stage"] == other.detail["stage"]
    np.testing.assert_allclose(other.update, one.update * 2.0**-80, rtol=1e-9)
