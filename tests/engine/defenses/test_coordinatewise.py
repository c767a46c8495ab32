"""Median and trimmed mean of each coordinate, and what all defenses do that stream over the coordinates.

Axes: N clients of the round, D parameters.
"""

import numpy as np
import pytest
import torch

from rflbat.aggregation import aggregate
from rflbat.defenses.registry import make_defense
from rflbat.errors import UserError
from tests.engine.defenses.cases import CASES, agree, scattered
from tests.engine.defenses.test_krum import simulated
from tests.kernels.allocations import Allocations
from tests.oracles import related

STREAMED = ("median", "trimmed_mean", "bulyan", "norm_clipping", "auror")
VALUES = np.array([[1.0, -3.0], [2.0, 8.0], [4.0, 0.0], [8.0, 1.0], [90.0, -70.0]])


def decide(name, updates_ND, malicious, **parameters):
    defense = make_defense(name, parameters)
    return defense.apply(simulated(updates_ND, malicious), defense.init(1, 1, torch.device("cpu")), None)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [(5, [4.0, 0.0]), (4, [3.0, 0.5]), (3, [2.0, 0.0]), (2, [1.5, 2.5]), (1, [1.0, -3.0])],
)
def test_median_by_hand(rows, wanted):
    """Each coordinate has its own middle: the result is no client's update."""
    decision = aggregate(VALUES[:rows], "median")
    assert decision.update.tolist() == wanted
    assert decision.weights.tolist() == [1 / rows] * rows
    assert decision.scores.tolist() == [0.0] * rows
    torch.testing.assert_close(aggregate(VALUES[:rows], "trimmed_mean").update, decision.update)


@pytest.mark.parametrize(
    ("f", "wanted"), [(0, [21.0, -12.8]), (1, [14 / 3, -2 / 3]), (2, [4.0, 0.0]), (None, [4.0, 0.0])]
)
def test_trimmed_mean_by_hand(f, wanted):
    decision = aggregate(VALUES, "trimmed_mean", f=f)
    assert decision.update.tolist() == pytest.approx(wanted)
    assert decision.weights.tolist() == [0.2] * 5


@pytest.mark.parametrize("clients", [1, 2, 3, 8, 13])
def test_every_f_against_the_oracle(clients):
    updates_ND = scattered(clients, 1)
    for f in range((clients + 1) // 2):
        agree(aggregate(updates_ND, "trimmed_mean", f=f), related.trimmed_mean(updates_ND, f=f))


@pytest.mark.parametrize(("name", "most"), [("trimmed_mean", 6), ("bulyan", 2)])
@pytest.mark.parametrize("malicious", [0, 1, 2, 5, 6, 7, 13])
def test_the_true_number_is_cut_to_what_the_clients_admit(name, most, malicious):
    updates_ND = scattered(13, 2)
    answer = getattr(related, name)(updates_ND, f=min(malicious, most))
    agree(decide(name, updates_ND, malicious, f="true"), answer)


@pytest.mark.parametrize("name", ["trimmed_mean", "bulyan"])
def test_the_true_number_is_unknown_outside_a_simulation(name):
    with pytest.raises(UserError, match=r'f="true" needs the real number'):
        aggregate(scattered(13, 2), name, f="true")


@pytest.mark.parametrize(("name", "needed"), [("trimmed_mean", 9), ("bulyan", 19)])
def test_too_large_an_f_is_refused_with_the_clients_it_needs(name, needed):
    assert aggregate(scattered(needed, 0), name, f="4").kept.any()
    with pytest.raises(UserError, match=rf"{name} f=4 needs at least {needed} clients per round; got {needed - 1}"):
        aggregate(scattered(needed - 1, 0), name, f=4)


@pytest.mark.parametrize(("name", "given", "fallen"), [("trimmed_mean", 4, 2), ("bulyan", 3, 1)])
def test_nonfinite_rows_make_f_fall(name, given, fallen):
    """As many finite clients are left as the smaller f needs."""
    finite = {"trimmed_mean": 2 * fallen + 2, "bulyan": 4 * fallen + 4}[name]
    updates_ND = scattered({"trimmed_mean": 9, "bulyan": 15}[name], 3)
    updates_ND[finite:, 5] = np.nan
    decision = aggregate(updates_ND, name, f=given)
    agree(decision, getattr(related, name)(updates_ND, f=fallen))
    assert not decision.kept[finite:].any()


@pytest.mark.parametrize("name", ["trimmed_mean", "bulyan"])
@pytest.mark.parametrize(("f", "message"), [(-1, "f=-1 is out of range"), ("half", "'half'.*'true'")])
def test_other_values_of_f(name, f, message):
    with pytest.raises(UserError, match=message):
        make_defense(name, {"f": f})


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "bulyan"])
@pytest.mark.parametrize("hostile", [1e38, -1e38, 1e6])
def test_hostile_entries_leave_no_trace(name, hostile):
    """One of seven, whatever it sends, moves no coordinate out of the range of the others."""
    updates_ND = scattered(7, 5)
    updates_ND[2] = hostile
    update_D = aggregate(torch.as_tensor(updates_ND).float(), name).update.double().numpy()
    honest_ND = np.delete(updates_ND, 2, 0)
    assert (update_D >= honest_ND.min(0)).all()
    assert (update_D <= honest_ND.max(0)).all()
    oracle = getattr(related, name)(updates_ND)
    np.testing.assert_allclose(update_D, oracle.update, atol=1e-6)


@pytest.mark.parametrize("name", STREAMED)
def test_no_second_matrix_is_made(name):
    updates_ND = torch.from_numpy(np.random.default_rng(0).standard_normal((9, 1_100_000), dtype=np.float32))
    with Allocations() as allocations:
        decision = aggregate(updates_ND, name, **CASES[name].parameters)
    assert decision.kept.any()
    assert 2**18 < allocations.largest < updates_ND.untyped_storage().nbytes()


@pytest.mark.parametrize("name", STREAMED)
def test_one_parameter(name):
    updates_ND = scattered(9, 4)[:, :1]
    agree(aggregate(updates_ND, name), CASES[name].oracle(updates_ND, None))
