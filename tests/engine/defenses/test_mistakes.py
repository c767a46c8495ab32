"""One test for each mistake that published copies of RFLBAT make; each shows that the mistaken answer differs.

Axes: N clients of the round, D parameters, K clusters.
"""

import math
import statistics

import numpy as np
import pytest
import torch

from rflbat.aggregation import aggregate
from rflbat.defenses.cluster_count import cluster
from rflbat.defenses.rflbat import cluster_scores
from rflbat_kernels import gap_statistic, kmeans
from tests.engine.defenses.cases import PARAMETERS
from tests.oracles import kernels as oracle


def group(rng, count, cosine, axis, noise=1.0):
    """Clients whose pairwise cosines are `cosine` on average, around a mean along one axis."""
    updates_ND = rng.standard_normal((count, PARAMETERS))
    updates_ND[:, axis] += math.sqrt(cosine / (1 - cosine) * PARAMETERS)
    return noise * updates_ND


def chosen_label(cosines_NN, labels_N, *, self_included=False, pick=min):
    """The paper's choice of a cluster, and two mistaken ones."""
    scores = {}
    for label in sorted(set(labels_N)):
        members = [i for i, other in enumerate(labels_N) if other == label]
        similarities = []
        for j in members:
            others = [i for i in members if self_included or i != j]
            similarities.append(sum(cosines_NN[j][i] for i in others) / len(others))
        scores[label] = statistics.median(similarities)
    return pick(scores, key=scores.__getitem__)


def kept_by(updates_ND, **parameters):
    return aggregate(torch.as_tensor(updates_ND), "rflbat", **parameters).kept.tolist()


def test_self_is_not_in_the_cosine_mean():
    """A member's cosine of 1 with itself weighs most in a small cluster, so that the large one is chosen."""
    rng = np.random.default_rng(0)
    updates_ND = np.concatenate([group(rng, 3, 0.25, 0), group(rng, 20, 0.4, 1)])
    labels_N = [0] * 3 + [1] * 20
    cosines_NN = oracle.cosines(updates_ND)
    assert chosen_label(cosines_NN, labels_N) == 0
    assert chosen_label(cosines_NN, labels_N, self_included=True) == 1
    assert kept_by(updates_ND) == [True] * 3 + [False] * 20
    # and as numbers: three members with cosines 0.1, 0.2 and 0.6
    three_NN = torch.tensor([[1.0, 0.1, 0.2], [0.1, 1.0, 0.6], [0.2, 0.6, 1.0]], dtype=torch.float64)
    scores_K, similarity_N = cluster_scores(three_NN, torch.ones(1, 3, dtype=torch.bool))
    assert similarity_N.tolist() == pytest.approx([0.15, 0.35, 0.4])
    assert scores_K.tolist() == pytest.approx([0.35])


def test_rows_of_the_cosine_matrix_belong_to_clients_and_not_to_positions_after_a_drop():
    """With the first client dropped, and honest and malicious ones in turn, a shift by one swaps the clusters."""
    rng = np.random.default_rng(1)
    updates_ND = np.empty((17, PARAMETERS))
    updates_ND[0] = 1e4 * np.eye(PARAMETERS)[2]
    updates_ND[1::2], updates_ND[2::2] = group(rng, 8, 0.1, 0), group(rng, 8, 0.9, 1)
    labels_N = [0, 1] * 8
    cosines_NN = oracle.cosines(updates_ND)
    assert chosen_label(cosines_NN[1:, 1:], labels_N) == 0
    assert chosen_label(cosines_NN[:-1, :-1], labels_N) == 1
    decision = aggregate(torch.as_tensor(updates_ND), "rflbat")
    assert decision.trace["stage"].tolist() == [2, *[0, 3] * 8]


def test_filter_2_keeps_identical_and_lone_members():
    """`G / median < eps` turned into `G < eps * median` is 0 < 0: it rejects all identical clients."""

    def mistaken_filter(points, eps):
        sums = [sum(math.dist(a, b) for b in points) for a in points]
        return [total < eps * statistics.median(sums) for total in sums]

    # clients that send nothing have cosine 0, so their cluster is the one chosen
    rng = np.random.default_rng(2)
    updates_ND = np.concatenate([np.zeros((4, PARAMETERS)), group(rng, 6, 0.9, 0)])
    assert mistaken_filter([(0.0, 0.0)] * 4, 4.0) == [False] * 4
    assert kept_by(updates_ND) == [True] * 4 + [False] * 6
    same_ND = np.tile(group(rng, 1, 0.5, 0), (5, 1))
    assert kept_by(same_ND) == [True] * 5
    assert mistaken_filter([(1.0, 2.0)], 4.0) == [False]
    assert kept_by(same_ND[:1]) == [True]


def test_cosines_are_those_of_updates_and_not_of_full_weights():
    """On the weights all cosines are near 1, and the larger updates differ most."""
    rng = np.random.default_rng(3)
    updates_ND = np.concatenate([group(rng, 8, 0.2, 0), group(rng, 6, 0.5, 1, noise=3.0)])
    labels_N = [0] * 8 + [1] * 6
    weights_ND = updates_ND + 1e3 * np.eye(PARAMETERS)[7]
    of_weights_NN = oracle.cosines(weights_ND)
    assert of_weights_NN.min() > 0.99
    assert chosen_label(oracle.cosines(updates_ND), labels_N) == 0
    assert chosen_label(of_weights_NN, labels_N) == 1
    assert kept_by(updates_ND) == [True] * 8 + [False] * 6


def two_groups():
    """Six malicious clients, then eight honest ones; the honest ones are kept."""
    rng = np.random.default_rng(4)
    return np.concatenate([group(rng, 6, 0.9, 1), group(rng, 8, 0.1, 0)])


def test_the_kept_clients_are_averaged_and_not_as_many_first_ones():
    updates_ND = two_groups()
    decision = aggregate(torch.as_tensor(updates_ND), "rflbat")
    kept = int(decision.kept.sum())
    right_D, mistaken_D = updates_ND[6:].mean(0), updates_ND[:kept].mean(0)
    assert np.abs(right_D - mistaken_D).max() > 1
    np.testing.assert_allclose(decision.update.numpy(), right_D, atol=1e-12)


def test_the_sum_is_divided_by_the_kept_and_not_by_all_participants():
    updates_ND = two_groups()
    sizes_N = np.arange(1.0, 15.0)
    kept_sum_D = sizes_N[6:] @ updates_ND[6:]
    right_D, mistaken_D = kept_sum_D / sizes_N[6:].sum(), kept_sum_D / sizes_N.sum()
    assert np.linalg.norm(mistaken_D) < 0.9 * np.linalg.norm(right_D)
    decision = aggregate(torch.as_tensor(updates_ND), "rflbat", sizes=sizes_N)
    np.testing.assert_allclose(decision.update.numpy(), right_D, atol=1e-12)


def test_the_least_similar_cluster_is_chosen_and_not_the_most_similar():
    updates_ND = two_groups()
    labels_N = [1] * 6 + [0] * 8
    cosines_NN = oracle.cosines(updates_ND)
    assert chosen_label(cosines_NN, labels_N) == 0
    assert chosen_label(cosines_NN, labels_N, pick=max) == 1
    assert kept_by(updates_ND) == [False] * 6 + [True] * 8


def fixed_draw(seed):
    """The same uniforms for the same shape, whatever was asked for before."""
    return lambda *shape: torch.as_tensor(np.random.default_rng(seed).random(shape))


def gap_choice(points_NH, spread, draw):
    """Number of clusters from 1 to 10 by the gap statistic, over a measure of the spread inside clusters."""
    low_H, high_H = points_NH.min(0).values, points_NH.max(0).values
    sets_MNH = torch.cat([points_NH[None], low_H + (high_H - low_H) * draw(5, *points_NH.shape)])
    labels_MLN = kmeans(sets_MNH, range(1, 11), draw(6, 10, 10, 10)).labels_MLN
    log_w = [
        [math.log(max(spread(points.numpy(), labels.numpy()), 1e-300)) for labels in labels_LN]
        for points, labels_LN in zip(sets_MNH, labels_MLN, strict=True)
    ]
    return oracle.gap(log_w[0], log_w[1:])[2] + 1


def from_first_member(points_NH, labels_N):
    firsts = {label: points_NH[labels_N == label][0] for label in set(labels_N.tolist())}
    return sum(math.dist(x, firsts[label]) ** 2 for x, label in zip(points_NH, labels_N.tolist(), strict=True))


def test_the_gap_statistic_measures_spread_from_the_mean_and_not_from_the_first_member():
    """The first point is far out on one side: measured from it, one blob looks like several."""
    rng = np.random.default_rng(5)
    points_NH = torch.as_tensor(rng.standard_normal((21, 2)))
    points_NH[0] = torch.tensor([3.0, 3.0])
    right = gap_choice(points_NH, oracle.inertia, fixed_draw(5))
    assert right == 1
    assert gap_choice(points_NH, from_first_member, fixed_draw(5)) > 1
    labels_N, count = cluster(points_NH, torch.ones(21, dtype=torch.bool), "gap", fixed_draw(5))
    assert int(count) == right
    assert not labels_N.any()


def test_the_gap_statistic_uses_the_error_of_the_next_number():
    """Gap(1) = 2, Gap(2) = 3, s_1 = sqrt(1.5), s_2 = 0: 2 < 3 - s_2, although 2 > 3 - s_1."""
    log_w = np.array([[0.0, 0.0], [1.0, 3.0], [3.0, 3.0]])
    gaps, errors, position = oracle.gap(log_w[0], log_w[1:])
    assert gaps[0] >= gaps[1] - errors[0]
    assert gaps[0] < gaps[1] - errors[1]
    assert int(gap_statistic(torch.as_tensor(log_w).exp(), (1, 2), 50)) == position == 1


@pytest.mark.parametrize(("points", "largest"), [(5, 4), (13, 10)])
def test_the_gap_statistic_takes_the_largest_number_where_no_smaller_one_will_do(points, largest):
    """Each further cluster takes most of the spread that is left: the rule never holds, and Gap(k + 1) runs out."""

    def mistaken(gaps, errors):
        k = 0
        while not gaps[k] >= gaps[k + 1] - errors[k + 1]:
            k += 1
        return k + 1

    rising = [0.0] + [100.0**power for power in range(points - 1)]
    points_NH = torch.tensor([[x, 0.0] for x in rising], dtype=torch.float64)
    with pytest.raises(IndexError):
        mistaken([float(k) for k in range(1, largest + 1)], [0.0] * largest)
    labels_N, count = cluster(points_NH, torch.ones(points, dtype=torch.bool), "gap", fixed_draw(6))
    assert int(count) == largest
    assert len(set(labels_N.tolist())) == largest


@pytest.mark.parametrize("pca", ["gram", "lowrank"])
def test_nothing_depends_on_the_global_random_generators(pca):
    """Updates without structure, where the starts of k-means decide: unseeded, every call would answer anew."""
    updates_ND = torch.as_tensor(np.random.default_rng(6).standard_normal((31, PARAMETERS)))
    answers = set()
    for seed in range(3):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the legacy generator is what a careless copy would use)
        torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
        decision = aggregate(updates_ND, "rflbat", clusters=6, pca=pca)
        answers.add(decision.update.numpy().tobytes())
        assert torch.equal(torch.get_rng_state(), torch_before)
        assert np.random.get_state()[1].tolist() == numpy_before  # noqa: NPY002
    assert len(answers) == 1
    # that the starts do decide here
    other = {tuple(kept_by(updates_ND, clusters=6, pca=pca, seed=seed)) for seed in range(8)}
    assert len(other) > 1


@pytest.mark.parametrize("clusters", [1, 2, 3, "gap", "gap2", "silhouette"])
@pytest.mark.parametrize("pca", ["gram", "lowrank"])
def test_under_two_survivors_there_is_no_crash(clusters, pca):
    """A copy that clusters one point, or takes the median of none, raises or recurses until something is left."""
    with pytest.raises(statistics.StatisticsError):
        statistics.median([])
    rng = np.random.default_rng(7)
    updates_ND = group(rng, 5, 0.5, 0)
    assert kept_by(updates_ND[:1], clusters=clusters, pca=pca) == [True]
    assert kept_by(updates_ND[:2], clusters=clusters, pca=pca) == [True, True]
    # one finite row, and none
    updates_ND[1:] = np.nan
    assert kept_by(updates_ND, clusters=clusters, pca=pca) == [True] + [False] * 4
    assert kept_by(updates_ND * np.nan, clusters=clusters, pca=pca) == [False] * 5
    # thresholds that leave one survivor of filter 1 (the middle of three on a line), and none
    line_ND = np.array([[-1.0], [0.0], [1.5]]) * np.eye(PARAMETERS)[0]
    decision = aggregate(line_ND, "rflbat", clusters=clusters, pca=pca, eps1=0.99, eps2=0.5)
    assert decision.trace["stage"].tolist() == [2, 0, 2]
    nobody = aggregate(line_ND, "rflbat", clusters=clusters, pca=pca, eps1=0.5)
    assert nobody.trace["stage"].tolist() == [2, 2, 2]
    assert not nobody.update.any()
