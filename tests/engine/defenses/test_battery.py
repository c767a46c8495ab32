"""Every defense equals its oracle, also on hard inputs; what needs no oracle is in the battery that ships.

Axes: N clients of the round, D parameters.
"""

import numpy as np
import pytest
import torch

from rflbat.defenses.registry import DEFENSES, make_defense
from rflbat.testing.defense_battery import close
from tests.engine.defenses.cases import CASES, agree, decide

every_defense = pytest.mark.parametrize("name", DEFENSES)
CLIENTS = (5, 12, 31)


def stage_names(name, decision):
    return [make_defense(name, CASES[name].parameters).stages[at] for at in decision.trace["stage"].tolist()]


def test_every_registry_row_has_a_case():
    assert set(CASES) == set(DEFENSES)
    for name in DEFENSES:
        assert make_defense(name, {}).name == name


@every_defense
@pytest.mark.parametrize("clients", CLIENTS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_its_oracle(name, clients, seed):
    case = CASES[name]
    updates_ND = case.make(clients, seed)
    sizes_N = np.random.default_rng(seed).integers(1, 50, clients)
    answer = case.oracle(updates_ND, sizes_N)
    decision = decide(name, updates_ND, sizes=sizes_N, seed=seed)
    agree(decision, answer)
    if case.scores:
        expected_N = answer.detail[case.scores]
        known_N = ~np.isnan(expected_N)
        assert known_N.any()
        np.testing.assert_allclose(decision.scores.numpy()[known_N], expected_N[known_N], rtol=1e-9, atol=1e-12)
    if "stage" in answer.detail:
        assert stage_names(name, decision) == answer.detail["stage"]


@every_defense
def test_the_cases_reach_every_stage_of_the_defense(name):
    """Otherwise the comparison above would be about nothing."""
    seen = {stage for seed in (0, 1) for stage in stage_names(name, decide(name, CASES[name].make(12, seed)))}
    assert CASES[name].stages | {"kept"} <= seen


@every_defense
@pytest.mark.parametrize("clients", [1, 2])
def test_one_and_two_clients(name, clients):
    updates_ND = CASES[name].make(clients, 7)
    decision = decide(name, updates_ND)
    agree(decision, CASES[name].oracle(updates_ND, None))
    if clients == 1 and not CASES[name].rescales:
        np.testing.assert_array_equal(decision.update.numpy(), updates_ND[0])


@every_defense
def test_a_common_translation_moves_the_result_where_the_case_says_so(name):
    updates_ND = CASES[name].make(12, 1)
    straight = decide(name, updates_ND).update
    moved = []
    for shift_D in (-updates_ND[0], 3 * updates_ND[5], *(-updates_ND[6:])):
        error_D = decide(name, updates_ND + shift_D).update - (straight + torch.as_tensor(shift_D))
        moved.append(float(error_D.abs().max()) < 1e-9 * np.abs(updates_ND).max())
    # If the flag is False, some translation really changes which clients are trusted.
    assert all(moved) is CASES[name].translation


@every_defense
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clients", [3, 12])
def test_identical_updates_give_that_update(name, clients, dtype):
    updates_ND = np.tile(CASES[name].make(1, 3), (clients, 1))
    decision = decide(name, updates_ND, dtype, sizes=np.arange(1, clients + 1))
    agree(decision, CASES[name].oracle(updates_ND, np.arange(1, clients + 1)), 1e-7)
    if CASES[name].rescales:
        assert decision.kept.all()
    elif CASES[name].identical_pass:
        close(decision.update.double(), torch.as_tensor(updates_ND[0]), 1e-6 if dtype == torch.float32 else 1e-14)
    else:
        assert not decision.kept.any()
        assert not decision.update.any()


@every_defense
def test_nonfinite_rows_are_left_out(name):
    updates_ND, sizes_N, at = CASES[name].make(12, 1), np.arange(1, 13), [0, 7]
    broken_ND = np.insert(updates_ND, at, 100 * CASES[name].make(2, 8), 0)
    broken_ND[0, 17], broken_ND[8] = np.nan, np.inf
    sizes_N = np.insert(sizes_N, at, 1000)
    agree(decide(name, broken_ND, sizes=sizes_N), CASES[name].oracle(broken_ND, sizes_N))


@every_defense
@pytest.mark.parametrize("zeros", [1, 2, 5])
def test_zero_rows(name, zeros):
    """0/0 lurks in cosines and in distances to a median; with five of five there is nothing but zero."""
    updates_ND = CASES[name].make(5, 2)
    updates_ND[:zeros] = 0
    decision = decide(name, updates_ND)
    # GeoMed's median may fall on an update here, where it promises six digits of the spread.
    agree(decision, CASES[name].oracle(updates_ND, None), 1e-6 if name == "geomed" else 1e-9, scale=10.0)


@every_defense
@pytest.mark.parametrize("seed", [0, 1])
def test_a_large_common_part_in_float32(name, seed):
    """Updates of 1e3 + noise: what cancels must not take the noise with it."""
    updates_ND = (1e3 + CASES[name].make(12, seed) / 50).astype(np.float32)
    decision = decide(name, updates_ND, torch.float32)
    answer = CASES[name].oracle(updates_ND, None)
    agree(decision, answer, 1e-6)
    # Numbers from 512 to 1023 are 2**-14 apart in float32: one rounding errs by half of that.
    assert np.abs(answer.update).max() < 1024
    error_D = decision.update.double().numpy() - answer.update
    assert np.abs(error_D).max() <= 1.01 * 2**-15
    assert np.sqrt(np.mean(error_D**2)) <= 1.3 * 2**-14 / np.sqrt(12)


@every_defense
def test_sizes_count_where_the_method_weighs_by_samples(name):
    updates_ND = CASES[name].make(12, 1)
    sizes_N = np.random.default_rng(3).integers(1, 50, 12)
    equal, weighed = decide(name, updates_ND), decide(name, updates_ND, sizes=sizes_N)
    assert torch.equal(equal.weights, weighed.weights) is not CASES[name].uses_sizes
    close(decide(name, updates_ND, sizes=7 * sizes_N).update, weighed.update)
    close(decide(name, updates_ND, sizes=[3] * 12).update, equal.update)
    if name in ("fedavg", "rflbat"):
        kept_N = weighed.kept.numpy()
        np.testing.assert_allclose(weighed.weights.numpy(), sizes_N * kept_N / (sizes_N * kept_N).sum(), rtol=1e-14)


@every_defense
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_every_type_of_updates(name, dtype):
    updates_ND = CASES[name].make(5, 0)
    decision = decide(name, updates_ND, dtype)
    rounded_ND = torch.as_tensor(updates_ND).to(dtype).double().numpy()
    agree(decision, CASES[name].oracle(rounded_ND, None), 2 * torch.finfo(dtype).eps + 1e-9)
