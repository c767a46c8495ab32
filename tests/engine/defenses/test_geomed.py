"""GeoMed and RFA: convergence, medians that fall on an update, far outliers, parameters.

Axes: N clients of the round, D parameters.
"""

import math

import numpy as np
import pytest
import torch

from rflbat.aggregation import aggregate
from rflbat.defenses import weiszfeld
from rflbat.defenses.base import Updates
from rflbat.defenses.geomed import geomed
from rflbat.defenses.rfa import rfa
from rflbat.errors import UserError
from tests.engine.defenses.cases import PARAMETERS, agree, scattered
from tests.oracles import defenses as oracles


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_tolerance_is_good_for_eight_digits(seed):
    updates_ND = scattered(13, seed)
    decision = aggregate(updates_ND, "geomed")
    assert bool(decision.trace["converged"])
    agree(decision, oracles.geomed(updates_ND, tolerance=1e-13), 1e-8)
    expected_N = [math.dist(row, decision.update.tolist()) for row in updates_ND]
    np.testing.assert_allclose(decision.scores.numpy(), expected_N, rtol=1e-9)


def test_the_result_minimises_the_sum_of_distances():
    updates_ND = scattered(13, 3)
    median_D = aggregate(updates_ND, "geomed").update.numpy()

    def cost(point_D):
        return sum(math.dist(row, point_D) for row in updates_ND)

    for step_D in np.random.default_rng(0).standard_normal((20, PARAMETERS)):
        assert cost(median_D) < cost(median_D + 0.01 * step_D)
    assert cost(median_D) < cost(updates_ND.mean(0))


def test_too_few_passes_are_told():
    updates_ND = scattered(13, 4)
    assert not bool(aggregate(updates_ND, "geomed", passes=1).trace["converged"])
    agree(aggregate(updates_ND, "geomed", passes=2), oracles.geomed(updates_ND, iterations=2))


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_median_that_falls_on_an_update(seed):
    """Six of eleven agree: whatever the others do, the median is theirs (to 1e-6 of the distances, as promised)."""
    rng = np.random.default_rng(seed)
    updates_ND = np.concatenate(
        [np.tile(rng.standard_normal(PARAMETERS), (6, 1)), rng.standard_normal((5, PARAMETERS))]
    )
    decision = aggregate(updates_ND, "geomed")
    np.testing.assert_allclose(decision.update.numpy(), updates_ND[0], atol=1e-5)
    assert bool(decision.trace["converged"])


@pytest.mark.parametrize("size", [1e3, 1e6, 1e8, 1e10])
def test_one_huge_update_pulls_the_median_with_one_unit_vector_whatever_its_length(size):
    """At the median the unit vectors to all updates cancel; how far it is from the honest ones must not grow."""
    updates_ND = scattered(13, 4)
    updates_ND[6] *= size
    median_D = aggregate(updates_ND, "geomed", tolerance=0.0, passes=400).update.numpy()
    away_ND = updates_ND - median_D
    assert np.linalg.norm((away_ND / np.linalg.norm(away_ND, axis=1)[:, None]).sum(0)) < 1e-3
    assert np.linalg.norm(median_D) < np.linalg.norm(np.delete(updates_ND, 6, 0), axis=1).max()


@pytest.mark.parametrize("parameters", [{"passes": 1}, {"passes": 9}, {"nu": 0.5}, {"nu": 20.0, "passes": 2}], ids=str)
def test_rfa_against_the_oracle(parameters):
    updates_ND, sizes_N = scattered(13, 5), np.arange(1, 14)
    decision = aggregate(updates_ND, "rfa", sizes=sizes_N, **parameters)
    asked = {{"passes": "iterations"}.get(key, key): value for key, value in parameters.items()}
    agree(decision, oracles.rfa(updates_ND, sizes_N, **asked))


def test_a_large_nu_is_the_mean():
    updates_ND = scattered(13, 6)
    mean = aggregate(updates_ND, "fedavg").update
    assert float((aggregate(updates_ND, "rfa", nu=1e6).update - mean).abs().max()) < 1e-12
    assert float((aggregate(updates_ND, "rfa").update - mean).abs().max()) > 1e-3


@pytest.fixture
def over_the_matrix(monkeypatch):
    """Passes over the updates whatever their number; the pairwise distances of all are not to be asked for."""
    monkeypatch.setattr(weiszfeld, "ROWS_PER_PASS", 0)
    monkeypatch.setattr(Updates, "squared_distances_NN", property(lambda updates: pytest.fail("all pairs")))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("bad", [False, True])
def test_passes_over_the_updates_give_the_same_as_pairwise_distances(request, seed, bad):
    updates_ND, sizes_N = scattered(13, seed), np.arange(1, 14)
    if bad:
        updates_ND[[0, 7]] = np.nan
    asked = [("geomed", {"tolerance": 0.0, "passes": 100}), ("rfa", {})]
    pairwise = [aggregate(updates_ND, name, sizes=sizes_N, **parameters) for name, parameters in asked]
    request.getfixturevalue("over_the_matrix")
    for (name, parameters), wanted in zip(asked, pairwise, strict=True):
        got = aggregate(updates_ND, name, sizes=sizes_N, **parameters)
        valid_N = wanted.trace["stage"] == 0
        assert torch.equal(got.kept, wanted.kept)
        for key in ("update", "weights"):
            torch.testing.assert_close(getattr(got, key), getattr(wanted, key), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(got.scores[valid_N], wanted.scores[valid_N], rtol=1e-9, atol=1e-9)
    agree(aggregate(updates_ND, "rfa", sizes=sizes_N), oracles.rfa(updates_ND, sizes_N))


def test_a_median_on_an_update_is_found_by_passes_too(over_the_matrix):
    rng = np.random.default_rng(0)
    updates_ND = np.concatenate(
        [np.tile(rng.standard_normal(PARAMETERS), (6, 1)), rng.standard_normal((5, PARAMETERS))]
    )
    decision = aggregate(updates_ND, "geomed")
    np.testing.assert_allclose(decision.update.numpy(), updates_ND[0], atol=1e-5)
    assert bool(decision.trace["converged"])


@pytest.mark.parametrize(("fill", "clients"), [(np.nan, 5), (1.5, 5), (1.5, 1)])
def test_passes_over_updates_that_are_all_the_same_or_none(over_the_matrix, fill, clients):
    updates_ND = np.full((clients, PARAMETERS), fill)
    for name in ("geomed", "rfa"):
        decision = aggregate(updates_ND, name)
        np.testing.assert_allclose(decision.update.numpy(), 0.0 if np.isnan(fill) else fill, rtol=1e-14)


@pytest.mark.parametrize(
    ("passes", "clients", "over"), [(4, 320, False), (4, 321, True), (20, 1344, False), (20, 1345, True)]
)
def test_the_number_of_clients_alone_says_what_is_cheaper(passes, clients, over):
    for fill in (0.0, np.nan):
        updates = Updates(
            torch.full((clients, 2), fill), torch.ones(clients), torch.arange(clients), torch.ones(clients)
        )
        assert weiszfeld.by_passes(updates, passes) is over


def test_a_cpu_stops_where_it_has_converged_with_the_result_of_all_passes(monkeypatch):
    asked = []
    distances = weiszfeld.distances_to_mix

    def counted(squared_NN, mix_N):
        asked.append(mix_N)
        return distances(squared_NN, mix_N)

    monkeypatch.setattr(weiszfeld, "distances_to_mix", counted)
    few = aggregate(scattered(13, 0), "geomed", tolerance=1e-6)
    assert bool(few.trace["converged"])
    taken = len(asked) - 1
    assert taken < 200
    exactly = aggregate(scattered(13, 0), "geomed", tolerance=1e-6, passes=taken)
    assert torch.equal(few.weights, exactly.weights)
    assert not bool(aggregate(scattered(13, 0), "geomed", tolerance=1e-6, passes=taken - 1).trace["converged"])


@pytest.mark.parametrize(
    ("make", "parameters", "message"),
    [
        (geomed, {"passes": 0}, "passes=0"),
        (geomed, {"tolerance": -1e-9}, "tolerance=-1e-09"),
        (rfa, {"passes": 0}, "passes=0"),
        (rfa, {"nu": 0.0}, "nu=0.0"),
        (rfa, {"nu": -1.0}, "nu=-1.0"),
        # 1 / inf is 0: no client would ever be kept
        (rfa, {"nu": math.inf}, "nu=inf"),
    ],
)
def test_values_out_of_range(make, parameters, message):
    with pytest.raises(UserError, match=message):
        make(**parameters)
