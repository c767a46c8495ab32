"""Bulyan: who is selected in which order, and which values are averaged.

Axes: N clients of the round, D parameters.
"""

import numpy as np
import pytest
import torch

from rflbat.aggregation import aggregate
from rflbat.defenses.bulyan import selection_order
from tests.engine.defenses.cases import agree, scattered
from tests.oracles import related

INF = float("inf")


def on_a_line(*positions):
    return np.array(positions)[:, None]


@pytest.mark.parametrize("clients", [1, 2, 3, 6, 7, 10, 11, 15, 16, 23])
def test_the_default_f_is_the_largest_with_n_at_least_4_f_plus_3(clients):
    updates_ND = scattered(clients, clients)
    f = {1: 0, 2: 0, 3: 0, 6: 0, 7: 1, 10: 1, 11: 2, 15: 3, 16: 3, 23: 5}[clients]
    decision = aggregate(updates_ND, "bulyan")
    assert int(decision.kept.sum()) == clients - 2 * f
    agree(decision, related.bulyan(updates_ND, f=f if clients >= 3 else None))


@pytest.mark.parametrize("f", [0, 1, 2, 3, 4, 5])
def test_every_f_against_the_oracle(f):
    updates_ND = scattered(23, 1)
    decision, answer = aggregate(updates_ND, "bulyan", f=f), related.bulyan(updates_ND, f=f)
    agree(decision, answer)
    assert decision.scores.tolist() == answer.detail["scores"].tolist()


@pytest.mark.parametrize(
    ("positions", "turns"),
    [
        # 7 has 165 to its four nearest; 3 then 157 to three; 1 then 197 to two; 0 as the first of 0 and 15 at 225.
        ([0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0], [3.0, 2.0, 1.0, 0.0, 4.0, INF, INF]),
        # By the scores of the first turn 11 would be taken (47, fourth of all) and 5 would not (191, the worst).
        ([5.0, 10.0, 11.0, 12.0, 14.0, 18.0, 19.0], [4.0, 2.0, INF, 0.0, 1.0, 3.0, INF]),
    ],
)
def test_krum_is_repeated_on_those_that_remain(positions, turns):
    updates_ND = on_a_line(*positions)
    assert aggregate(updates_ND, "bulyan", f=1).scores.tolist() == turns
    assert related.bulyan(updates_ND, f=1).detail["scores"].tolist() == turns


def test_values_nearest_to_the_median_of_the_selected_are_averaged():
    updates_ND = on_a_line(1.0, 2.0, 2.5, 3.0, 4.0, 4.5, 90.0)
    decision = aggregate(updates_ND, "bulyan", f=1)
    # selected are 1, 2, 2.5, 3, 4 with median 2.5; nearest are 2, 2.5, 3.
    assert decision.kept.tolist() == [True] * 5 + [False] * 2
    assert decision.update.item() == 2.5
    assert decision.weights.tolist() == [0.2] * 5 + [0.0] * 2
    assert decision.trace["stage"].tolist() == [0] * 5 + [2] * 2


def test_the_first_of_equals_is_selected_first():
    decision = aggregate(np.ones((7, 3)), "bulyan", f=1)
    assert decision.scores.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, INF, INF]


def test_selection_of_none_and_of_all():
    squared_NN = torch.tensor([[0.0, 1.0, 9.0], [1.0, 0.0, 4.0], [9.0, 4.0, 0.0]], dtype=torch.float64)
    valid_N, nothing = torch.tensor([True, True, True]), torch.tensor(0)
    assert selection_order(squared_NN, valid_N, nothing, nothing).tolist() == [INF] * 3
    assert selection_order(squared_NN, valid_N, nothing, torch.tensor(3)).tolist() == [0.0, 1.0, 2.0]
    assert selection_order(squared_NN, ~valid_N, nothing, nothing).tolist() == [INF] * 3
    one = torch.tensor([False, False, True])
    assert selection_order(squared_NN, one, nothing, torch.tensor(1)).tolist() == [INF, INF, 0.0]


@pytest.mark.parametrize("size", [1e3, 1e9, 1e12, 1e38])
def test_hostile_updates_do_not_blur_the_distances_of_the_others(size):
    updates_ND = scattered(15, 4)
    updates_ND[[3, 8, 11]] *= np.array([[size], [-size], [size / 3]])
    decision = aggregate(updates_ND, "bulyan")
    agree(decision, related.bulyan(updates_ND))
    assert not decision.kept[[3, 8, 11]].any()
