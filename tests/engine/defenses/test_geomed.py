"""GeoMed and RFA: convergence, medians that fall on an update, far outliers, parameters.

Axes: N clients of the round, D parameters.
"""

import math

import numpy as np
import pytest

from rflbat.aggregate import aggregate
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


@pytest.mark.parametrize(
    ("make", "parameters", "message"),
    [
        (geomed, {"passes": 0}, "passes=0"),
        (geomed, {"tolerance": -1e-9}, "tolerance=-1e-09"),
        (rfa, {"passes": 0}, "passes=0"),
        (rfa, {"nu": 0.0}, "nu=0.0"),
        (rfa, {"nu": -1.0}, "nu=-1.0"),
        # 1 / inf is 0: nobody would ever be kept
        (rfa, {"nu": math.inf}, "nu=inf"),
    ],
)
def test_values_out_of_range(make, parameters, message):
    with pytest.raises(UserError, match=message):
        make(**parameters)
