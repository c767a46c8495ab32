"""Carried columns in a round: the columns that a defense sees, and the running statistics of the new global model.

Axes: N clients of the round, D columns.
"""

import dataclasses

import pytest
import torch

import rflbat
from rflbat.cli.dry_run import plan_run
from rflbat.errors import UserError
from rflbat.experiment.config import Experiment
from rflbat.models import from_module
from rflbat.models.registry import MODELS
from rflbat.ranks import Ranks
from rflbat.round.memory import round_memory
from rflbat.round.setup import _check_ranks, build, initial_state
from rflbat.simulation.checkpoint import restore, save
from rflbat.storage.run_folder import RunFolder
from tests.engine.rounds import patched, play, small, spying


class Small(torch.nn.Sequential):
    """Batch normalisation and dropout between two linear layers."""

    def __init__(self, p=0.0):
        layers = torch.nn.Linear(784, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(p), torch.nn.Linear(6, 10)
        super().__init__(torch.nn.Flatten(), *layers)


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    for name, p in (("norm", 0.0), ("noisy", 0.3)):
        monkeypatch.setitem(MODELS._rows, name, lambda shape, classes, words=0, p=p: from_module(lambda: Small(p)))


def of(**settings):
    return build(small(model="norm", malicious=0.3, **settings))


def one_round(federation):
    """The columns that the defense saw, all updates, the outcome, and the global model before and after."""
    seen, trained = [], []
    before = initial_state(federation)
    watched = patched(spying(federation, seen), lambda params_ND: trained.append(params_ND.clone()))
    after, (outcome,) = play(watched, 1, before)
    return seen[0].values, trained[0] - before.params_D, outcome, before.params_D, after.params_D


def test_running_statistics_are_averaged_by_the_decision_s_weights():
    federation = of(defense="rflbat", server_lr=0.5)
    seen_ND, updates_ND, outcome, before_D, after_D = one_round(federation)
    layout, decision = federation.model.layout, outcome.decision
    assert 0 < decision.kept.sum() < 13
    torch.testing.assert_close(seen_ND, updates_ND[:, : layout.trained])
    move_D = decision.weights.float() @ updates_ND
    move_D[: layout.trained] *= 0.5
    torch.testing.assert_close(after_D, before_D + move_D)
    views = layout.views(after_D)
    assert views["2.num_batches_tracked"] == 3
    assert (views["2.running_var"] > 0).all()


def test_a_defense_without_weights_averages_the_kept_clients():
    federation = of(defense="median")
    _, updates_ND, _, before_D, after_D = one_round(federation)
    layout = federation.model.layout
    carried = slice(layout.trained, None)
    torch.testing.assert_close(after_D[carried], before_D[carried] + updates_ND[:, carried].mean(0))
    torch.testing.assert_close(after_D[: layout.trained], (before_D + updates_ND.median(0).values)[: layout.trained])


def test_keep_global_leaves_them_as_they_were():
    for vector in ("trained", "all"):
        federation = of(batch_norm="keep-global", defense_vector=vector)
        *_, before_D, after_D = one_round(federation)
        trained = federation.model.layout.trained
        assert torch.equal(after_D[trained:], before_D[trained:])
        assert not torch.equal(after_D[:trained], before_D[:trained])


def test_a_defense_can_see_all_columns():
    federation = of(defense="median", defense_vector="all", shadow="foolsgold")
    seen_ND, updates_ND, _, before_D, after_D = one_round(federation)
    torch.testing.assert_close(seen_ND, updates_ND)
    torch.testing.assert_close(after_D, before_D + updates_ND.median(0).values)
    assert initial_state(federation).shadow_states[0].history_CD.shape[1] == federation.model.layout.size
    others = of(shadow="foolsgold")
    assert initial_state(others).shadow_states[0].history_CD.shape[1] == others.model.layout.trained


def test_without_carried_columns_the_settings_change_nothing():
    plain = play(build(small()), 2)[0].params_D
    for settings in ({"batch_norm": "keep-global"}, {"defense_vector": "all"}):
        assert torch.equal(play(build(small(**settings)), 2)[0].params_D, plain)


def test_a_non_finite_statistic_rejects_the_client():
    federation = of(defense="fedavg")

    def spoil(params_ND):
        params_ND[4, -2] = torch.nan

    after, (outcome,) = play(patched(federation, spoil))
    assert outcome.decision.kept.tolist() == [client != 4 for client in range(13)]
    assert after.params_D.isfinite().all()


def test_a_move_that_makes_statistics_non_finite_is_discarded():
    federation = of(defense="fedavg")
    start = initial_state(federation)
    largest = torch.finfo(torch.float32).max

    def spoil(params_ND):
        params_ND[:, -2] = largest

    nearly = dataclasses.replace(start, params_D=start.params_D.index_fill(0, torch.tensor([-2]), largest))
    after, (outcome,) = play(patched(federation, lambda params_ND: params_ND[:, -2].fill_(largest)), 1, start)
    assert not outcome.discarded
    assert after.params_D[-2] == largest
    broken = dataclasses.replace(nearly, params_D=nearly.params_D.index_fill(0, torch.tensor([-2]), torch.inf))
    _, (outcome,) = play(federation, 1, broken)
    assert outcome.discarded


@pytest.mark.parametrize("model", ["norm", "noisy"])
def test_back_ends_agree_and_a_seed_repeats(model):
    settings = [
        {"backend": "vmap", "chunk": 4},
        {"backend": "vmap"},
        {"backend": "loop"},
        {"backend": "loop", "seed": 0},
    ]
    rows = [play(build(small(model=model, **each)), 2)[0].params_D for each in settings]
    for other in rows[1:]:
        torch.testing.assert_close(other, rows[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(rows[2], rows[3])
    assert not torch.equal(play(build(small(model=model, seed=1)), 2)[0].params_D, rows[0])


def test_dropout_draws_anew_in_each_round():
    noisy, plain = (play(build(small(model=name, malicious=0.0)), 1)[0].params_D for name in ("noisy", "norm"))
    assert (noisy - plain).abs().max() > 1e-3
    keys = [rflbat.round.draws.draw_keys(0, "dropout", number, 5) for number in (0, 1)]
    assert len(set(torch.cat(keys).tolist())) == 10
    assert torch.equal(rflbat.round.draws.draw_keys(0, "dropout", 0, 7)[:5], keys[0])


def test_a_defense_that_learns_before_the_first_round_sees_the_same_columns():
    federation = of(defense="autoencoder", batch_size=3)
    server, _ = play(federation, 1)
    assert server.params_D.isfinite().all()


def test_a_defense_feeds_the_models_with_their_own_statistics():
    federation, seen = of(defense="deepsight", batch_norm="average"), []

    def watched(updates, state, draw):
        x_B = torch.rand(4, 1, 28, 28)
        seen.append((updates.matrix_ND.clone(), x_B, updates.outputs(x_B), updates.global_outputs(x_B)))
        return federation.defense.apply(updates, state, draw)

    trained = []
    defense = dataclasses.replace(federation.defense, apply=watched)
    watching = patched(dataclasses.replace(federation, defense=defense), lambda each: trained.append(each.clone()))
    start = play(federation, 1)[0]
    play(watching, 1, start)
    ((_, x_B, logits_NBC, global_BC),), (params_ND,), model = seen, trained, federation.model
    expected_NBC = [model.apply(model.named(params_D), x_B) for params_D in params_ND]
    torch.testing.assert_close(logits_NBC, torch.stack(expected_NBC), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(global_BC, model.apply(model.named(start.params_D), x_B), rtol=1e-4, atol=1e-5)


def test_a_checkpoint_holds_the_statistics(tmp_path):
    federation = of(defense="foolsgold")
    server, _ = play(federation, 2)
    config = federation.experiment.to_dict()
    folder = RunFolder.create(tmp_path / "run", {"config": config})
    save(folder, config, federation, server, 1.0)
    restored, _ = restore(federation, folder, folder.checkpoint)
    assert torch.equal(restored.params_D, server.params_D)


def test_several_ranks_are_refused():
    federation = dataclasses.replace(of(), ranks=Ranks(count=2))
    with pytest.raises(UserError, match="carries running statistics, which 2 ranks would have to average"):
        _check_ranks(federation)


def test_the_dry_run_counts_carried_and_frozen_numbers():
    shown = dict(plan_run(Experiment(model="norm", clients=10, defense="fedavg", device="cpu")))
    assert shown["model"] == "Small, 4792 parameters, 13 carried"
    lora = small(model="lora", model_args={"width": 20})
    assert dict(plan_run(lora))["model"] == "lora, 3586 parameters, 16120 frozen"
    for model in ("norm", "lora"):
        shown = dict(plan_run(small(model=model, defense="fltrust", shadow="deepsight")))
        assert shown["memory: outputs"].endswith("in turn")
    assert round_memory(build(lora)).resident["frozen parameters"] == 4 * 16120


@pytest.mark.parametrize("name", ["batch_norm", "defense_vector"])
def test_unknown_words_are_refused(name):
    with pytest.raises(UserError, match=f"{name}='mean'; allowed: "):
        small(**{name: "mean"})


def test_a_resnet_runs_on_the_embedded_digits(tmp_path):
    experiment = small(
        model="resnet", model_args={"width": 8, "norm": "batch"}, clients=4, rounds=2, batch_size=20, malicious=0.25
    )
    result = rflbat.run(experiment, tmp_path / "run")
    assert len(result.rounds) == 2
