"""AUROR: indicative coordinates, suspicious clients, who is dropped.

Axes: N clients of the round, D parameters.
"""

import math

import numpy as np
import pytest
import torch

from rflbat.aggregation import aggregate
from rflbat.defenses.auror import auror, usual_limit
from rflbat.errors import UserError
from tests.engine.defenses.cases import agree, conspiring
from tests.oracles import related

TABLE = np.array(
    [
        [0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 5.0],
        [0.1, 0.0, 5.0, 5.0],
        [0.1, 0.0, 5.0, 5.0],
        [9.0, 0.0, 5.0, 5.0],
    ]
)


def scores(alpha, share=0.5, updates_ND=TABLE):
    decision = aggregate(updates_ND, "auror", alpha=alpha, share=share)
    agree(decision, related.auror(updates_ND, alpha=alpha, share=share))
    return decision.scores.tolist(), decision.kept.tolist()


def test_by_hand():
    """Minorities: client 4 in the first column, none in the second, 0 and 1 in the third, 0 in the fourth."""
    assert scores(1.0) == (pytest.approx([2 / 3, 1 / 3, 0, 0, 1 / 3]), [False, True, True, True, True])
    assert scores(1.0, share=0.3) == (pytest.approx([2 / 3, 1 / 3, 0, 0, 1 / 3]), [False, False, True, True, False])
    assert scores(1.0, share=1.0)[1] == [True] * 5
    assert scores(6.0) == ([0, 0, 0, 0, 1], [True] * 4 + [False])


def test_the_distance_must_exceed_alpha():
    assert scores(5.0)[0] == [0, 0, 0, 0, 1]
    assert scores(4.999)[0] == pytest.approx([2 / 3, 1 / 3, 0, 0, 1 / 3])


def test_without_an_indicative_coordinate_everybody_is_kept():
    assert scores(100.0) == ([0.0] * 5, [True] * 5)
    assert scores(0.0, updates_ND=np.ones((5, 3))) == ([0.0] * 5, [True] * 5)
    # fewer than 1 / 5 of the coordinates are two deviations above the mean: none of four
    assert scores(None) == ([0.0] * 5, [True] * 5)


def test_a_share_is_exceeded_not_reached():
    updates_ND = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
    assert scores(1.0) != scores(1.0, updates_ND=updates_ND)
    assert scores(1.0, updates_ND=updates_ND) == ([0, 0, 0.5, 0.5], [True] * 4)
    assert scores(1.0, share=0.49, updates_ND=updates_ND)[1] == [True, True, False, False]


def test_of_two_equal_clusters_neither_is_suspicious():
    assert scores(1.0, updates_ND=np.array([[0.0], [0.0], [7.0], [7.0]])) == ([0.0] * 4, [True] * 4)
    assert scores(0.0, updates_ND=np.array([[0.0], [7.0]])) == ([0.0] * 2, [True] * 2)


def test_below_a_half_nobody_may_be_left():
    updates_ND = 9.0 * np.eye(3)
    decision = aggregate(updates_ND, "auror", alpha=1.0, share=0.2)
    agree(decision, related.auror(updates_ND, alpha=1.0, share=0.2))
    assert not decision.kept.any()
    assert not decision.update.any()
    assert aggregate(updates_ND, "auror", alpha=1.0).kept.all()


def test_the_usual_limit():
    distance_D = torch.from_numpy(np.random.default_rng(1).random(1001))
    wanted = np.mean(distance_D.numpy()) + 2 * np.std(distance_D.numpy())
    assert float(usual_limit(distance_D)) == pytest.approx(wanted, rel=1e-14)
    assert float(usual_limit(1e300 * distance_D)) == pytest.approx(1e300 * wanted, rel=1e-14)
    for value in (0.1, 0.0, 1e38, 1e-300):
        equal_D = torch.full((1001,), value, dtype=torch.float64)
        assert not (equal_D > usual_limit(equal_D)).any()


@pytest.mark.parametrize("parameters", [{}, {"alpha": 0.0}, {"alpha": 3.0}, {"share": 0.05}, {"share": 0.0}])
@pytest.mark.parametrize("clients", [3, 12, 13])
def test_options_against_the_oracle(clients, parameters):
    updates_ND, sizes_N = conspiring(clients, 4), np.arange(1, clients + 1)
    decision = aggregate(updates_ND, "auror", sizes=sizes_N, **parameters)
    answer = related.auror(updates_ND, sizes_N, **parameters)
    agree(decision, answer)
    np.testing.assert_allclose(decision.scores, answer.detail["scores"], rtol=1e-12)


def test_conspirators_are_dropped():
    updates_ND = conspiring(20, 0)
    conspirators_N = torch.as_tensor((updates_ND > 7).any(1))
    assert int(conspirators_N.sum()) == 5
    assert torch.equal(aggregate(updates_ND, "auror").kept, ~conspirators_N)


@pytest.mark.parametrize("hostile", [1e38, -1e38])
def test_a_hostile_client_is_the_minority_of_every_coordinate_it_spoils(hostile):
    updates_ND = conspiring(9, 1)
    updates_ND[4, ::10] = hostile
    decision = aggregate(torch.as_tensor(updates_ND).float(), "auror")
    assert decision.scores[4] == 1
    assert decision.kept.tolist() == [True] * 4 + [False] + [True] * 4
    assert decision.update.abs().max() < 10


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": -0.1}, "alpha=-0.1 is out of range; allowed: finite numbers of at least 0"),
        ({"alpha": math.nan}, "alpha=nan"),
        ({"alpha": math.inf}, "alpha=inf"),
        ({"share": -0.1}, "share=-0.1 is out of range; allowed: 0 to 1"),
        ({"share": 1.1}, "share=1.1"),
    ],
)
def test_values_out_of_range(parameters, message):
    with pytest.raises(UserError, match=message):
        auror(**parameters)
