"""Properties that every defense must have. A test module that sets ``BATTERY_OF`` runs these tests on its subjects.

Axes: N clients of the round, D parameters.
"""

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from rflbat.defenses.base import Decision, restore_state, state_tensors
from rflbat.defenses.registry import DEFENSES, make_defense
from rflbat.errors import UserError
from rflbat.storage.tensors import load_tensors, save_tensors
from rflbat.testing.plugin import NAMED
from rflbat.testing.subject import PARAMETERS, Subject, named

BATTERY_OF: list[Subject] = []
"""Subjects to test; if empty, the defenses named by ``--rflbat-battery``."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test for each subject."""
    if "subject" in metafunc.fixturenames:
        subjects = metafunc.module.BATTERY_OF or [named(name) for name in metafunc.config.stash[NAMED]["defense"]]
        metafunc.parametrize("subject", subjects, ids=lambda subject: subject.name)


ANSWERS = ("update", "kept", "weights", "scores")


def consistent(subject: Subject, decision: Decision) -> None:
    """Check that weights, mask, stages and dtypes agree and that the update is finite."""
    weights_N = decision.weights
    assert weights_N.dtype == torch.float64
    assert bool((weights_N >= 0).all())
    assert float(weights_N.sum()) == pytest.approx(1.0 if bool(decision.kept.any()) else 0.0, abs=1e-12)
    assert torch.equal(decision.kept, weights_N > 0)
    assert decision.trace["stage"].dtype == torch.int64
    assert [stage == "kept" for stage in subject.stages_of(decision)] == decision.kept.tolist()
    assert bool(torch.isfinite(decision.update).all())


def close(one: Any, other: Any, tolerance: float = 1e-11) -> None:
    """Check equality up to rounding."""
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_its_first_stages_are_those_of_every_defense(subject: Subject) -> None:
    """Records and reports rely on these stages."""
    assert subject.defense.stages[:2] == ("kept", "nonfinite")


@pytest.mark.parametrize("clients", [1, 2, 3, 5, 12, 31])
def test_its_answer_is_consistent(subject: Subject, clients: int) -> None:
    """Rounds of different sizes."""
    consistent(subject, subject.decide(subject.make(clients, 7), sizes=np.arange(1, clients + 1)))


@pytest.mark.parametrize("clients", [5, 12, 31])
def test_permuted_clients_permute_the_answer(subject: Subject, clients: int) -> None:
    """No client is preferred because of its row."""
    clients = max(clients, subject.untied)
    updates_ND, sizes_N = subject.make(clients, 1), np.arange(1, clients + 1)
    order_N = np.random.default_rng(5).permutation(clients)
    straight = subject.decide(updates_ND, sizes=sizes_N)
    permuted = subject.decide(updates_ND[order_N], sizes=sizes_N[order_N])
    assert torch.equal(permuted.kept, straight.kept[order_N])
    assert torch.equal(permuted.trace["stage"], straight.trace["stage"][order_N])
    close(permuted.weights, straight.weights[order_N])
    close(permuted.scores, straight.scores[order_N], 1e-9)
    close(permuted.update, straight.update)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("whole_row", [True, False])
def test_a_nonfinite_row_is_dropped_before_anything_else(subject: Subject, bad: float, whole_row: bool) -> None:
    """The other clients are judged as if the row did not exist."""
    clean_ND, sizes_N, at = subject.make(12, 1), np.arange(1, 13), [0, 7]
    broken_2D = np.full((2, PARAMETERS), bad) if whole_row else 100 * subject.make(2, 8)
    broken_2D[:, 17] = bad
    decision = subject.decide(np.insert(clean_ND, at, broken_2D, 0), sizes=np.insert(sizes_N, at, 1000))
    alone = subject.decide(clean_ND, sizes=sizes_N)
    consistent(subject, decision)
    broken_N = np.insert(np.zeros(12, bool), at, True)
    assert [stage == "nonfinite" for stage in subject.stages_of(decision)] == broken_N.tolist()
    assert torch.equal(decision.kept[~broken_N], alone.kept)
    assert torch.equal(decision.trace["stage"][~broken_N], alone.trace["stage"])
    close(decision.weights[~broken_N], alone.weights)
    close(decision.scores[~broken_N], alone.scores, 1e-9)
    close(decision.update, alone.update)


@pytest.mark.parametrize("clients", [1, 5])
def test_nothing_but_nonfinite_rows(subject: Subject, clients: int) -> None:
    """No client is kept, and the global model is unchanged."""
    decision = subject.decide(np.full((clients, PARAMETERS), np.nan), torch.float32)
    consistent(subject, decision)
    assert not decision.kept.any()
    assert not decision.update.any()
    assert set(subject.stages_of(decision)) == {"nonfinite"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clients", [3, 12])
def test_identical_updates_give_that_update_or_nobody_is_kept(
    subject: Subject, clients: int, dtype: torch.dtype
) -> None:
    """All spreads are 0, so divisions by a spread must be guarded."""
    updates_ND = np.tile(subject.make(1, 3), (clients, 1))
    decision = subject.decide(updates_ND, dtype, sizes=np.arange(1, clients + 1))
    consistent(subject, decision)
    if bool(decision.kept.any()):
        update_D, wanted_D = decision.update.double(), torch.as_tensor(updates_ND[0])
        if subject.rescales:
            update_D, wanted_D = (each / each.norm() for each in (update_D, wanted_D))
        close(update_D, wanted_D, 1e-6 if dtype == torch.float32 else 1e-14)
    else:
        assert not decision.update.any()


@pytest.mark.parametrize("zeros", [1, 2, 5])
def test_zero_rows(subject: Subject, zeros: int) -> None:
    """Cosines and distances to a median can become 0/0; with five of five rows all updates are zero."""
    updates_ND = subject.make(5, 2)
    updates_ND[:zeros] = 0
    consistent(subject, subject.decide(updates_ND))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_large_common_part_in_float32_keeps_the_noise(subject: Subject, seed: int) -> None:
    """For updates of 1e3 + noise, masks equal those of float64 on the same numbers."""
    updates_ND = (1e3 + subject.make(12, seed) / 50).astype(np.float32)
    single, double = (subject.decide(updates_ND, dtype) for dtype in (torch.float32, torch.float64))
    assert torch.equal(single.kept, double.kept)
    assert torch.equal(single.trace["stage"], double.trace["stage"])
    close(single.update.double(), double.update, 2**-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_update_keeps_the_type_of_the_input(subject: Subject, dtype: torch.dtype) -> None:
    """The update keeps its length too; weights and scores are float64."""
    decision = subject.decide(subject.make(5, 0), dtype)
    assert (decision.update.dtype, decision.update.shape) == (dtype, (PARAMETERS,))
    assert decision.weights.dtype == decision.scores.dtype == torch.float64


def test_the_same_seed_gives_the_same_bits_and_the_input_stays_as_it_was(subject: Subject) -> None:
    """Runs are reproducible."""
    updates_ND = torch.as_tensor(subject.make(12, 0))
    updates_ND[3] = torch.nan
    sizes_N = torch.arange(1, 13)
    before_ND, sizes_before_N = updates_ND.clone(), sizes_N.clone()
    one, two = (subject.decide(updates_ND, sizes=sizes_N, seed=11) for _ in range(2))
    for key in ANSWERS:
        assert getattr(one, key).numpy().tobytes() == getattr(two, key).numpy().tobytes(), key
    assert one.trace.keys() == two.trace.keys()
    assert updates_ND.numpy().tobytes() == before_ND.numpy().tobytes()
    assert torch.equal(sizes_N, sizes_before_N)


def test_two_rounds_through_a_checkpoint_equal_two_rounds_straight(subject: Subject, tmp_path: Any) -> None:
    """A run that is stopped and resumed gives the same results as an uninterrupted one."""
    first = subject.decide(subject.make(12, 0))
    save_tensors(tmp_path / "state.safetensors", state_tensors(first.state), {"round": 1})
    stored, _ = load_tensors(tmp_path / "state.safetensors")
    state = restore_state(subject.defense.init(12, PARAMETERS, torch.device("cpu")), stored)
    assert type(state) is type(first.state)
    for key, value in state_tensors(first.state).items():
        assert torch.equal(state_tensors(state)[key], value)
    straight, resumed = (subject.decide(subject.make(12, 1), state=each) for each in (first.state, state))
    for key in ANSWERS:
        assert torch.equal(getattr(straight, key), getattr(resumed, key)), key


def test_a_stored_state_that_does_not_fit_is_refused(subject: Subject) -> None:
    """A checkpoint with other tensors is rejected."""
    fresh = subject.defense.init(3, PARAMETERS, torch.device("cpu"))
    with pytest.raises(ValueError, match="state"):
        restore_state(fresh, {**state_tensors(fresh), "stranger": torch.zeros(1)})


def test_the_largest_float32_numbers_stay_finite(subject: Subject) -> None:
    """Sums of squares of 3e38 overflow float32."""
    updates_ND = subject.make(12, 1)
    consistent(subject, subject.decide(updates_ND / np.abs(updates_ND).max() * 3e38, torch.float32))


def test_nan_is_no_value_of_a_parameter(subject: Subject) -> None:
    """Every comparison with NaN is false, so a threshold of NaN would silently switch a filter off."""
    for key, parameter in inspect.signature(DEFENSES[subject.name]).parameters.items():
        if parameter.annotation is float:
            with pytest.raises(UserError, match=key):
                make_defense(subject.name, {key: float("nan")})
