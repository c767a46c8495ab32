"""RFLBAT's options, stages and trace, against the oracle and by construction.

Axes: N clients of the round, D parameters, H principal components, K clusters.
"""

import numpy as np
import pytest
import torch

from rflbat.aggregation import aggregate
from rflbat.defenses.rflbat import STAGES, passes_filter, rflbat
from rflbat.errors import UserError
from rflbat.randomness import draw_source
from tests.engine.defenses.cases import PARAMETERS, agree, clustered
from tests.oracles import defenses as oracles
from tests.oracles import kernels as oracle


def stages(decision):
    return [STAGES[at] for at in decision.trace["stage"].tolist()]


def all_stages():
    """Positions of two kinds along one axis, one stray on the honest side, and an outlier along another axis."""
    rng = np.random.default_rng(0)
    updates_ND = rng.standard_normal((20, PARAMETERS))
    updates_ND[10:18, 0] += 100
    updates_ND[18, 0] -= 40
    updates_ND[19, 1] += 1e5
    return updates_ND, ["kept"] * 10 + ["cluster"] * 8 + ["filter2", "filter1"]


def three_groups(seed):
    rng = np.random.default_rng(seed)
    updates_ND = rng.standard_normal((21, PARAMETERS))
    for start, axis, size in ((0, 0, 30), (7, 1, 40), (14, 2, 60)):
        updates_ND[start : start + 7, axis] += size
    return rng.permutation(updates_ND)


def test_every_client_falls_at_the_stage_it_was_made_for():
    updates_ND, expected = all_stages()
    decision = aggregate(updates_ND, "rflbat", sizes=range(1, 21))
    assert stages(decision) == expected
    agree(decision, oracles.rflbat(updates_ND, range(1, 21)))
    # a stage later, once an earlier one lets go
    lenient = aggregate(updates_ND, "rflbat", eps1=100.0, clusters=1)
    assert stages(lenient) == ["kept"] * 19 + ["filter2"]
    assert stages(aggregate(updates_ND, "rflbat", eps2=100.0)) == ["kept"] * 10 + ["cluster"] * 8 + ["kept", "filter1"]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "parameters",
    [
        {"clusters": 1},
        {"weighting": "uniform"},
        {"eps1": 1.2},
        {"eps2": 0.99},
        {"eps1": 0.9, "eps2": 0.9},
        {"eps2": 60.0},
        {"smallest": 0.7},
        {"smallest": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("pca", ["gram", "lowrank"])
def test_options_against_the_oracle(seed, parameters, pca):
    updates_ND, sizes_N = clustered(13, seed), np.arange(1, 14)
    decision = aggregate(updates_ND, "rflbat", sizes=sizes_N, pca=pca, **parameters)
    answer = oracles.rflbat(updates_ND, sizes_N, **parameters)
    assert stages(decision) == answer.detail["stage"]
    agree(decision, answer)


def test_the_options_above_matter():
    """Each changes the mask or the weights of the same round."""
    weights = {
        tuple(aggregate(clustered(13, 1), "rflbat", sizes=range(1, 14), **parameters).weights.tolist())
        for parameters in ({}, {"clusters": 1}, {"weighting": "uniform"}, {"eps1": 1.2}, {"eps2": 0.99}, {"eps2": 60.0})
    }
    assert len(weights) == 6


@pytest.mark.parametrize("clients", [5, 12, 31])
@pytest.mark.parametrize("clusters", [1, 2, "gap2", "silhouette"])
def test_both_back_ends_of_pca_keep_the_same_clients(clients, clusters):
    for seed in (0, 1):
        updates_ND = clustered(clients, seed)
        updates_ND[1] = np.inf
        gram, lowrank = (aggregate(updates_ND, "rflbat", pca=pca, clusters=clusters) for pca in ("gram", "lowrank"))
        assert torch.equal(gram.kept, lowrank.kept)
        size = float(gram.trace["coordinates"].abs().max())
        torch.testing.assert_close(gram.trace["coordinates"], lowrank.trace["coordinates"], rtol=0.0, atol=1e-6 * size)


def test_uniform_weighting_forgets_the_sizes_and_samples_does_not():
    updates_ND, _ = all_stages()
    sizes_N = np.arange(1, 21)
    uniform = aggregate(updates_ND, "rflbat", sizes=sizes_N, weighting="uniform")
    assert uniform.weights[:10].tolist() == pytest.approx([0.1] * 10)
    samples = aggregate(updates_ND, "rflbat", sizes=sizes_N)
    assert samples.weights[:10].tolist() == pytest.approx([size / 55 for size in range(1, 11)])


def best_labels(points_NH, k, starts_RK):
    """K-means by the oracle's parts: every restart from its own uniforms, the smallest inertia wins."""
    runs = (oracle.lloyd(points_NH, points_NH[oracle.kmeans_plus_plus(points_NH, u[:k])], 12) for u in starts_RK)
    return min(runs, key=lambda run: run[2])[0]


def rule(name, points_NH, draw):
    """(k, labels) that a rule must choose, with the uniforms that the defense is given."""
    clients = len(points_NH)
    counts = range(1 if name == "gap" else 2, min(10, clients - 1) + 1)
    every = 10 if name == "gap" else 9
    sets = [points_NH]
    if name != "silhouette":
        low_H, high_H = points_NH.min(0), points_NH.max(0)
        sets += [low_H + (high_H - low_H) * u for u in draw(5, clients, 2).numpy()]
    starts = draw(len(sets), every, 10, 10).numpy()
    labels = [[best_labels(points, k, starts[m, at]) for at, k in enumerate(counts)] for m, points in enumerate(sets)]
    if name == "silhouette":
        at = int(np.argmax([oracle.silhouette(points_NH, found) for found in labels[0]]))
    else:
        log_w = [
            [np.log(max(oracle.inertia(points, found), np.finfo(float).tiny)) for found in row]
            for points, row in zip(sets, labels, strict=True)
        ]
        at = oracle.gap(log_w[0], log_w[1:])[2]
    return counts[at], labels[0][at]


@pytest.mark.parametrize("name", ["gap", "gap2", "silhouette"])
@pytest.mark.parametrize("kind", ["blob", "two", "three"])
def test_rules_for_the_number_of_clusters_against_the_oracle(name, kind):
    updates_ND = {
        "blob": np.random.default_rng(3).standard_normal((8, PARAMETERS)),
        "two": clustered(9, 0),
        "three": three_groups(2)[:11],
    }[kind]
    decision = aggregate(updates_ND, "rflbat", clusters=name, seed=4)
    # The oracle's plane has its own signs; the defense's own coordinates are checked against it below.
    points_NH = decision.trace["coordinates"].numpy()
    count, labels_N = rule(name, points_NH, draw_source(4, "defense", 0, "cpu"))
    assert int(decision.trace["clusters"]) == count
    if kind != "blob" and name == "silhouette":
        assert count == {"two": 2, "three": 3}[kind]
    answer = oracles.rflbat(updates_ND, cluster_labels=lambda points: labels_N)
    assert stages(decision) == answer.detail["stage"]
    agree(decision, answer)


def test_gap_may_answer_one_cluster_and_the_other_rules_may_not():
    updates_ND = np.random.default_rng(3).standard_normal((31, PARAMETERS))
    assert int(aggregate(updates_ND, "rflbat", clusters="gap").trace["clusters"]) == 1
    assert aggregate(updates_ND, "rflbat", clusters="gap").kept.all()
    for name in ("gap2", "silhouette"):
        assert int(aggregate(updates_ND, "rflbat", clusters=name).trace["clusters"]) >= 2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_three_clusters_against_the_oracle(seed):
    updates_ND = three_groups(seed)
    starts_RK = np.random.default_rng(9).random((20, 3))
    answer = oracles.rflbat(updates_ND, cluster_labels=lambda points: best_labels(points, 3, starts_RK))
    decision = aggregate(updates_ND, "rflbat", clusters=3)
    assert stages(decision) == answer.detail["stage"]
    assert set(stages(decision)) == {"kept", "cluster"}
    agree(decision, answer)
    np.testing.assert_allclose(
        sorted(decision.trace["cluster_scores"].tolist()), sorted(answer.detail["scores"].values()), rtol=1e-9
    )


@pytest.mark.parametrize("clusters", [7, 8, 20])
def test_as_many_clusters_as_clients_or_more_leave_one_lone_client(clusters):
    updates_ND = np.random.default_rng(1).standard_normal((7, PARAMETERS))
    decision = aggregate(updates_ND, "rflbat", clusters=clusters)
    assert int(decision.kept.sum()) == 1
    assert decision.trace["cluster"].max() < clusters
    assert len(set(decision.trace["cluster"].tolist())) == 7


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_equality_with_a_threshold_keeps(offset):
    """k equal points and one at distance 1: sums 1 and k, so the ratio is k exactly."""
    for k, eps in ((10, 10.0), (4, 4.0)):
        points_NH = torch.zeros(k + 1, 2, dtype=torch.float64) + offset
        points_NH[k, 0] += 1
        everybody_N = torch.ones(k + 1, dtype=torch.bool)
        assert passes_filter(points_NH, everybody_N, eps).all()
        assert passes_filter(points_NH, everybody_N, eps - 1e-9).tolist() == [True] * k + [False]


def test_a_filter_looks_only_at_those_present():
    points_NH = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 7.0]], dtype=torch.float64)
    present_N = torch.tensor([True, True, False])
    assert passes_filter(points_NH, present_N, 1.0).tolist() == [True, True, False]
    assert passes_filter(points_NH, ~present_N & False, 1.0).tolist() == [False] * 3


def test_two_survivors_are_one_cluster():
    """However far apart: with two clusters one of them would be judged alone."""
    updates_ND = np.array([[0.0], [1.0]]) * np.eye(PARAMETERS)[3] + np.eye(PARAMETERS)[5]
    decision = aggregate(updates_ND, "rflbat")
    assert decision.kept.all()
    assert decision.trace["cluster"].tolist() == [0, 0]
    assert int(decision.trace["clusters"]) == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_lone_client_is_chosen_only_if_nothing_else_is_left(seed):
    """Five clients of cosine 1, the largest there is, and one far away: whichever cluster comes first."""
    updates_ND = np.concatenate([np.tile(clustered(1, 0), (5, 1)), 100 * np.eye(PARAMETERS)[:1]])
    decision = aggregate(updates_ND, "rflbat", seed=seed)
    assert decision.kept.tolist() == [True] * 5 + [False]
    assert sorted(decision.trace["cluster_scores"].tolist())[0] == 1


def test_a_cluster_below_the_smallest_share_is_chosen_only_if_nothing_else_is_left():
    """Three loose clients beside ten alike ones: the smaller cluster has the lower score."""
    rng = np.random.default_rng(3)
    loose_ND = rng.standard_normal((3, PARAMETERS))
    alike_ND = 3 * rng.standard_normal(PARAMETERS) + 0.1 * rng.standard_normal((10, PARAMETERS))
    updates_ND = np.concatenate([loose_ND, alike_ND])
    kept = [aggregate(updates_ND, "rflbat", clusters=2, smallest=share).kept.tolist() for share in (0.0, 0.23, 0.24)]
    assert kept == [[True] * 3 + [False] * 10] * 2 + [[False] * 3 + [True] * 10]


def test_trace():
    updates_ND, _ = all_stages()
    updates_ND[5] = np.nan
    decision = aggregate(updates_ND, "rflbat", clusters=2)
    trace, detail = decision.trace, oracles.rflbat(updates_ND, clusters=2).detail
    assert set(trace) == {"stage", "coordinates", "cluster", "cluster_scores", "clusters"}
    assert trace["coordinates"].shape == (20, 2)
    assert trace["cluster_scores"].shape == (2,)
    assert int(trace["clusters"]) == 2
    finite_N = ~np.isnan(detail["coordinates"][:, 0])
    assert not trace["coordinates"][~finite_N].any()
    found_NH, expected_NH = trace["coordinates"].numpy()[finite_N], detail["coordinates"][finite_N]
    signs_H = np.sign((found_NH * expected_NH).sum(0))
    np.testing.assert_allclose(found_NH, signs_H * expected_NH, atol=1e-6)
    fell_N = np.isin(detail["stage"], ["nonfinite", "filter1"])
    assert (trace["cluster"].numpy() == -1).tolist() == fell_N.tolist() == (detail["labels"] == -1).tolist()
    for label, score in detail["scores"].items():
        mine = set(trace["cluster"].numpy()[detail["labels"] == label].tolist())
        assert len(mine) == 1
        assert float(trace["cluster_scores"][mine.pop()]) == pytest.approx(score, rel=1e-9)
    members_N = ~fell_N
    np.testing.assert_allclose(decision.scores.numpy()[members_N], detail["similarities"][members_N], rtol=1e-9)


def test_a_rule_scores_as_many_clusters_as_it_may_choose():
    updates_ND, _ = all_stages()
    trace = aggregate(updates_ND, "rflbat", clusters="silhouette").trace
    assert int(trace["clusters"]) == 2
    assert trace["cluster_scores"].shape == (10,)
    assert trace["cluster_scores"].isinf().tolist() == [False] * 2 + [True] * 8


@pytest.mark.parametrize("pca", ["gram", "lowrank"])
@pytest.mark.parametrize("size", [1e3, 1e6, 1e9, 1e12])
def test_one_huge_update_does_not_shield_the_other_attackers(pca, size):
    """It falls at filter 1, but the plane was computed with it: the rest must not shrink to one point there."""
    rng = np.random.default_rng(0)
    honest_ND = rng.standard_normal((13, PARAMETERS))
    malicious_ND = 3 * rng.standard_normal(PARAMETERS) + 0.3 * rng.standard_normal((6, PARAMETERS))
    updates_ND = np.concatenate([honest_ND, malicious_ND, size * rng.standard_normal((1, PARAMETERS))])
    assert oracles.rflbat(updates_ND).detail["stage"] == ["kept"] * 13 + ["cluster"] * 6 + ["filter1"]
    assert stages(aggregate(updates_ND, "rflbat", pca=pca)) == ["kept"] * 13 + ["cluster"] * 6 + ["filter1"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"clusters": 0}, "clusters=0 is out of range; allowed: at least 1"),
        ({"clusters": -3}, "clusters=-3 is out of range"),
        ({"clusters": "gap3"}, "'gap3'.*gap, gap2, silhouette"),
        ({"smallest": -0.1}, "smallest=-0.1 is out of range; allowed: 0 to 1"),
        ({"smallest": 1.1}, "smallest=1.1 is out of range"),
        ({"eps1": 0.0}, "eps1=0.0"),
        ({"eps1": -1.0}, "eps1=-1.0"),
        ({"eps2": 0.0}, "eps2=0.0"),
        ({"weighting": "sample"}, "did you mean 'samples'"),
        ({"weighting": "median"}, "allowed: samples, uniform"),
        ({"pca": "lowrnk"}, "did you mean 'lowrank'"),
    ],
)
def test_bad_parameters_are_one_clear_line(parameters, message):
    with pytest.raises(UserError, match=message) as caught:
        rflbat(**parameters)
    assert "\n" not in str(caught.value)
