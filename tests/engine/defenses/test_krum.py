"""Krum and Multi-Krum: which f, how many neighbours, how many averaged.

Axes: N clients of the round, D parameters.
"""

import numpy as np
import pytest
import torch

from rflbat.aggregation import aggregate
from rflbat.defenses.base import Updates
from rflbat.defenses.krum import krum, multikrum
from rflbat.errors import UserError
from tests.engine.defenses.cases import PARAMETERS, agree, scattered
from tests.oracles import defenses as oracles

DEFENSES = {"krum": krum, "multikrum": multikrum}
both = pytest.mark.parametrize("name", DEFENSES)


def simulated(updates_ND, malicious):
    """Updates as a simulation gives them: it knows how many are malicious."""
    rows = len(updates_ND)
    return Updates(
        torch.as_tensor(updates_ND),
        torch.ones(rows, dtype=torch.float64),
        torch.arange(rows),
        torch.isfinite(torch.as_tensor(updates_ND)).all(1),
        None if malicious is None else torch.tensor(malicious),
    )


def decide(name, updates_ND, malicious, **parameters):
    defense = DEFENSES[name](**parameters)
    return defense.apply(simulated(updates_ND, malicious), defense.init(1, 1, torch.device("cpu")), None)


@both
@pytest.mark.parametrize("clients", range(1, 12))
def test_the_default_f_is_the_largest_with_n_at_least_2_f_plus_3(name, clients):
    updates_ND = scattered(clients, clients)
    f = {1: 0, 2: 0, 3: 0, 4: 0, 5: 1, 6: 1, 7: 2, 8: 2, 9: 3, 10: 3, 11: 4}[clients]
    default = aggregate(updates_ND, name)
    agree(default, getattr(oracles, name)(updates_ND, f=f))
    assert int(default.kept.sum()) == (1 if name == "krum" else clients - f)
    if clients >= 3:
        assert torch.equal(default.scores, aggregate(updates_ND, name, f=f).scores)


@both
def test_nonfinite_rows_do_not_count_for_the_default_f(name):
    updates_ND = scattered(11, 0)
    updates_ND[:2] = np.nan
    decision = aggregate(updates_ND, name)
    assert int(decision.kept.sum()) == (1 if name == "krum" else 9 - 3)
    assert decision.scores[:2].isinf().all()


@both
@pytest.mark.parametrize("f", [0, 1, 3, 9, 10])
def test_a_given_f_against_the_oracle(name, f):
    """n - f - 2 neighbours: 11 down to 1."""
    updates_ND = scattered(13, 1)
    decision = aggregate(updates_ND, name, f=f)
    answer = getattr(oracles, name)(updates_ND, f=f)
    agree(decision, answer)
    np.testing.assert_allclose(decision.scores.numpy(), answer.detail["scores"], rtol=1e-9)
    assert torch.equal(aggregate(updates_ND, name, f=str(f)).kept, decision.kept)


def test_distances_are_squared():
    """By squares the middle of three is nearest to both; the sum of plain distances ties with a twin elsewhere."""
    positions = np.array([0.0, 2.0, 4.0, 100.0, 100.0, 104.5])
    updates_ND = positions[:, None] * np.eye(PARAMETERS)[0]
    scores_N = aggregate(updates_ND, "krum", f=2).scores
    assert scores_N.tolist() == pytest.approx([20.0, 8.0, 20.0, 4.5**2, 4.5**2, 2 * 4.5**2])
    # unsquared: 6, 4, 6, 4.5, 4.5, 9


@both
@pytest.mark.parametrize("malicious", [0, 2, 4, 10, 13])
def test_the_true_number_comes_from_the_simulation(name, malicious):
    """More than n - 3 leave one neighbour; that cannot be refused, because no code waits for the number."""
    updates_ND = scattered(13, 2)
    decision = decide(name, updates_ND, malicious, f="true")
    agree(decision, getattr(oracles, name)(updates_ND, f=malicious))


@both
def test_the_true_number_is_unknown_outside_a_simulation(name):
    with pytest.raises(UserError, match=r'f="true" needs the real number'):
        decide(name, scattered(13, 2), None, f="true")
    with pytest.raises(UserError, match=r'f="true"'):
        aggregate(scattered(13, 2), name, f="true")


@both
def test_a_given_f_does_not_look_at_the_true_number(name):
    updates_ND = scattered(13, 2)
    assert torch.equal(decide(name, updates_ND, 5, f=1).scores, decide(name, updates_ND, None, f=1).scores)
    assert torch.equal(decide(name, updates_ND, 2).scores, decide(name, updates_ND, None).scores)


@both
def test_too_large_an_f_is_refused_with_the_clients_it_needs(name):
    with pytest.raises(UserError, match=r"f=11 needs at least 14 clients per round; got 13"):
        aggregate(scattered(13, 0), name, f=11)
    for clients in (1, 2):
        with pytest.raises(UserError, match="f=5"):
            aggregate(scattered(clients, 0), name, f=5)


@both
@pytest.mark.parametrize(("f", "message"), [(-1, "f=-1 is out"), ("half", "'half'.*'true'"), ("True", "'True'")])
def test_other_values_of_f(name, f, message):
    with pytest.raises(UserError, match=message):
        DEFENSES[name](f=f)


@pytest.mark.parametrize("m", [1, 2, 7, 13, 100])
def test_m_lowest_are_averaged(m):
    """More than there are means all."""
    updates_ND = scattered(13, 3)
    decision = aggregate(updates_ND, "multikrum", m=m, f=2)
    agree(decision, oracles.multikrum(updates_ND, m=m, f=2))
    assert int(decision.kept.sum()) == min(m, 13)
    if m == 1:
        assert torch.equal(decision.kept, aggregate(updates_ND, "krum", f=2).kept)


def test_m_counts_finite_clients():
    updates_ND = scattered(9, 3)
    updates_ND[4] = np.inf
    assert aggregate(updates_ND, "multikrum", m=9).kept.tolist() == [True] * 4 + [False] + [True] * 4


@pytest.mark.parametrize("m", [0, -2])
def test_m_below_one_is_refused(m):
    with pytest.raises(UserError, match=f"m={m}"):
        multikrum(m=m)


def test_the_first_of_equals_is_chosen():
    updates_ND = np.tile(scattered(1, 0), (5, 1))
    assert aggregate(updates_ND, "krum").kept.tolist() == [True] + [False] * 4
    assert aggregate(updates_ND, "multikrum", m=2).kept.tolist() == [True] * 2 + [False] * 3


@both
@pytest.mark.parametrize("size", [1e3, 1e6, 1e9, 1e12])
def test_one_huge_update_does_not_blur_the_distances_of_the_others(name, size):
    updates_ND = scattered(13, 4)
    updates_ND[6] *= size
    agree(aggregate(updates_ND, name), getattr(oracles, name)(updates_ND))
