"""Norm clipping: bound, weights and noise.

Axes: N clients of the round, D parameters.
"""

import math

import numpy as np
import pytest
import torch

from rflbat.aggregation import aggregate
from rflbat.defenses.norm_clipping import norm_clipping, normals
from rflbat.errors import UserError
from rflbat.randomness import draw_source
from tests.engine.defenses.cases import agree, scattered
from tests.engine.defenses.test_krum import simulated
from tests.oracles import related

THREE = np.array([[3.0, 4.0], [0.0, -1.0], [60.0, 80.0]])


@pytest.mark.parametrize(
    ("bound", "wanted"),
    [(5.0, [2.0, 7 / 3]), (None, [2.0, 7 / 3]), (0.5, [0.2, 0.1]), (100.0, [21.0, 83 / 3]), (1e9, [21.0, 83 / 3])],
)
def test_by_hand(bound, wanted):
    decision = aggregate(THREE, "norm_clipping", bound=bound)
    assert decision.update.tolist() == pytest.approx(wanted)
    assert decision.scores.tolist() == pytest.approx([5.0, 1.0, 100.0])
    assert decision.weights.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("bound", [None, 0.3, 10.0, 11.5, 1e6])
def test_every_bound_against_the_oracle(bound):
    updates_ND, sizes_N = scattered(13, 3), np.arange(1, 14)
    decision = aggregate(updates_ND, "norm_clipping", bound=bound, sizes=sizes_N)
    agree(decision, related.norm_clipping(updates_ND, sizes_N, bound=bound))


def test_the_update_is_the_weighted_sum_of_the_clipped():
    updates_ND, sizes_N = scattered(9, 3), np.arange(1, 10)
    decision = aggregate(updates_ND, "norm_clipping", bound=9.0, sizes=sizes_N)
    clip_N = np.minimum(1, 9.0 / decision.scores.numpy())
    np.testing.assert_allclose(decision.update, (decision.weights.numpy() * clip_N) @ updates_ND, rtol=1e-12)
    assert decision.weights.tolist() == pytest.approx((sizes_N / 45).tolist())


def test_a_median_of_zero_clips_everything_to_zero():
    decision = aggregate(np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]]), "norm_clipping")
    assert decision.update.tolist() == [0.0, 0.0]
    assert decision.kept.all()


@pytest.mark.parametrize("hostile", [1e38, -3e38])
def test_a_hostile_update_adds_no_more_than_the_bound(hostile):
    updates_ND = torch.from_numpy(scattered(9, 1)).float()
    without_D = 8 / 9 * aggregate(updates_ND[1:], "norm_clipping", bound=10.0).update
    updates_ND[0] = hostile
    moved_D = aggregate(updates_ND, "norm_clipping", bound=10.0).update - without_D
    assert float(moved_D.norm()) == pytest.approx(10 / 9, rel=1e-4)


def test_normals_are_normal():
    numbers = normals(draw_source(0, "defense", 0, "cpu"), 100_001)
    assert numbers.shape == (100_001,)
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert float((numbers**power).mean()) == pytest.approx(moment, abs=0.06)
    inside = float((numbers.abs() < 1).double().mean())
    assert inside == pytest.approx(math.erf(math.sqrt(0.5)), abs=0.01)
    halves_2D = numbers[:100_000].reshape(2, -1)
    assert abs(float(torch.corrcoef(halves_2D)[0, 1])) < 0.02


def test_the_rim_of_the_uniforms_gives_finite_normals():
    rim = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert normals(lambda *shape: rim.expand(shape), 4).isfinite().all()
    assert normals(lambda *shape: rim.expand(shape), 3).shape == (3,)


@pytest.mark.parametrize("parameters", [3, 4, 20_001])
def test_noise_is_added_to_the_mean(parameters):
    updates_ND = np.random.default_rng(1).standard_normal((5, parameters))
    quiet = aggregate(updates_ND, "norm_clipping")
    loud = aggregate(updates_ND, "norm_clipping", noise=0.5, seed=3)
    noise_D = loud.update - quiet.update
    expected_D = 0.5 * normals(draw_source(3, "defense", 0, "cpu"), parameters)
    torch.testing.assert_close(noise_D, expected_D, rtol=0, atol=1e-14)
    assert torch.equal(loud.weights, quiet.weights)
    assert not torch.equal(aggregate(updates_ND, "norm_clipping", noise=0.5, seed=4).update, loud.update)
    assert torch.equal(aggregate(updates_ND, "norm_clipping", noise=0.5, seed=3).update, loud.update)
    assert torch.equal(aggregate(updates_ND, "norm_clipping", noise=0).update, quiet.update)


def test_without_noise_nothing_is_drawn():
    def never(*shape):
        raise AssertionError

    updates = torch.ones(3, 2)
    assert aggregate(updates, "norm_clipping").update.tolist() == [1.0, 1.0]
    defense = norm_clipping(noise=0.0)
    assert defense.apply(simulated(updates, None), None, never).kept.all()


def test_where_nobody_is_left_there_is_no_noise_either():
    decision = aggregate(torch.full((3, 5), torch.nan), "norm_clipping", noise=1.0)
    assert decision.update.tolist() == [0.0] * 5


def test_noise_beyond_the_type_stays_finite():
    decision = aggregate(torch.ones(3, 50, dtype=torch.float16), "norm_clipping", noise=1e30)
    assert decision.update.dtype == torch.float16
    assert decision.update.isfinite().all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"bound": 0.0}, "bound=0.0 is out of range; allowed: finite numbers above 0"),
        ({"bound": -1.0}, "bound=-1.0"),
        ({"bound": math.inf}, "bound=inf"),
        ({"bound": math.nan}, "bound=nan"),
        ({"noise": -0.1}, "noise=-0.1 is out of range; allowed: finite numbers of at least 0"),
        ({"noise": math.inf}, "noise=inf"),
    ],
)
def test_values_out_of_range(parameters, message):
    with pytest.raises(UserError, match=message):
        norm_clipping(**parameters)
