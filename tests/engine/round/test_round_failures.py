"""The global model is protected from non-finite updates, overflow, and rounds in which no client is kept.

Legend of the suffixes: N clients of the round, D parameters.
"""

import dataclasses
import json

import pytest
import torch

from rflbat.defenses.base import Defense, decide
from rflbat.defenses.registry import DEFENSES
from rflbat.round.records import round_record
from rflbat.round.setup import build, initial_state
from rflbat.simulation.loop import run
from tests.engine.rounds import patched, play, small, spying


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("defense", DEFENSES)
def test_a_client_that_is_not_finite_is_dropped_and_counted(defense, poison):
    federation = build(small(defense=defense, malicious=0.0))
    broken = patched(federation, lambda params_ND: params_ND[4, 101:].fill_(poison))
    server, outcomes = play(broken, 2)
    assert server.params_D.isfinite().all()
    assert not torch.equal(server.params_D, initial_state(federation).params_D)
    for outcome in outcomes:
        assert not outcome.decision.kept[4]
        assert outcome.decision.weights[4] == 0
        assert federation.defense.stages[outcome.decision.trace["stage"][4]] == "nonfinite"
        assert outcome.measures.isfinite().all()
        assert round_record(federation, outcome)["nonfinite"] == 1


@pytest.mark.parametrize("defense", DEFENSES)
def test_when_everybody_diverges_the_model_stays(defense):
    federation = build(small(defense=defense, lr=1e38))
    before = initial_state(federation)
    after, outcomes = play(federation, 2)
    assert torch.equal(after.params_D, before.params_D)
    for outcome in outcomes:
        record = round_record(federation, outcome)
        assert (record["nonfinite"], record["kept"], record["nobody_kept"]) == (13, 0, True)
        assert not outcome.decision.weights.any()


def test_an_overflow_of_the_move_itself_leaves_the_model_finite():
    federation = patched(build(small(server_lr=1e3)), lambda params_ND: params_ND.fill_(3e37))
    after, (outcome,) = play(federation)
    assert outcome.decision.update.isfinite().all()
    assert torch.equal(after.params_D, initial_state(federation).params_D)
    assert round_record(federation, outcome)["move_discarded"] is True
    assert round_record(federation, outcome)["kept"] == 13
    _, (quiet,) = play(build(small()))
    assert round_record(federation, quiet)["move_discarded"] is False


def test_the_folder_of_a_run_says_which_moves_were_discarded(tmp_path):
    told = run(small(server_lr=3.4e38, lr=100.0, rounds=2), tmp_path / "run")
    assert told.params.isfinite().all()
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert [line["move_discarded"] for line in lines] == [True, True]
    assert [line["nobody_kept"] for line in lines] == [False, False]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["moves_discarded"] == 2


def test_a_defense_that_keeps_nobody_leaves_the_model_and_the_round_says_so():
    federation = build(small())

    def apply(updates, state, draw):
        nothing_N = torch.zeros_like(updates.sizes_N)
        return decide(updates, nothing_N, nothing_N, stage_N=torch.full_like(updates.client_ids_N, 2))

    nobody = dataclasses.replace(federation, defense=Defense("nobody", ("kept", "nonfinite", "all"), apply))
    after, (outcome,) = play(nobody)
    assert torch.equal(after.params_D, initial_state(federation).params_D)
    record = round_record(nobody, outcome)
    assert record["nobody_kept"] is True
    assert (record["kept"], record["dropped"], record["stages"]) == (0, 13, {"nonfinite": 0, "all": 13})
    assert record["accuracy"] is not None


@pytest.mark.parametrize("defense", [name for name in DEFENSES if name != "foolsgold"])  # sybils are what it silences
@pytest.mark.parametrize("broken", [0, 1, 6])
def test_dropped_clients_do_not_shrink_the_step(defense, broken):
    noise = {"noise": 0.0} if defense == "flame" else {}
    federation = build(small(defense=defense, defense_args=noise, malicious=0.0))
    before = initial_state(federation)

    def agree(params_ND):
        params_ND.copy_(before.params_D + 0.125)
        params_ND[:broken] = torch.nan

    after, (outcome,) = play(patched(federation, agree))
    assert outcome.decision.kept.sum() <= 13 - broken
    torch.testing.assert_close(
        after.params_D - before.params_D, torch.full_like(after.params_D, 0.125), rtol=0, atol=1e-6
    )


def test_the_step_is_divided_by_the_kept_weight():
    federation = build(small(partition="dirichlet"))
    chosen = torch.arange(13) % 3 == 0

    def apply(updates, state, draw):
        return decide(updates, torch.where(chosen, updates.sizes_N, 0), updates.sizes_N, stage_N=(~chosen) * 2)

    seen = []
    some = spying(dataclasses.replace(federation, defense=Defense("some", ("kept", "nonfinite", "rest"), apply)), seen)
    after, (outcome,) = play(some)
    matrix, sizes = seen[0].matrix_ND.double()[chosen], seen[0].sizes_N[chosen]
    expected_D = (sizes[:, None] * matrix).sum(0) / sizes.sum()
    assert torch.equal(outcome.decision.kept, chosen)
    moved_D = (after.params_D - initial_state(federation).params_D).double()
    torch.testing.assert_close(moved_D, expected_D, rtol=0, atol=1e-6)
