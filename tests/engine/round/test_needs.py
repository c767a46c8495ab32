"""The needs of defenses: the server's own update, the models' outputs, the last model; nothing that is not declared.

Axes: N clients of the round, D parameters, B inputs.
"""

import dataclasses

import numpy as np
import pytest
import torch

from rflbat import Interrupted, UserError, resume, run
from rflbat.clients.batches import draw_batches
from rflbat.clients.executor import same_start
from rflbat.clients.row_sparse import LocalTask, row_sparse
from rflbat.clients.sharded import train_sharded
from rflbat.clients.step import make_batch_source
from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.defenses.registry import make_defense
from rflbat.randomness import Draw, generator
from rflbat.round import needs
from rflbat.round.memory import round_memory
from rflbat.round.root_data import draw_root_data
from rflbat.round.setup import build, initial_state
from rflbat.simulation.callbacks import CallbackBase
from rflbat.storage.run_folder import RunFolder
from tests.engine.federations import small_federation
from tests.engine.rounds import play, small, spying, updates_of


def drifting() -> Defense:
    """Repeat a tenth of the last round's step on top of the mean; for tests of ``history``."""

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        step_D = 0.1 * (updates.params_D - updates.previous_D)
        mean_D = updates.weighted_sum(updates.sizes_N / updates.sizes_N.sum())
        return decide(updates, updates.sizes_N, updates.norms_N, update_D=mean_D + step_D)

    return Defense("drifting", ("kept", "nonfinite"), apply, needs=frozenset({"params", "history"}))


DRIFTING = f"{__name__}:drifting"


def test_the_servers_update_is_that_of_one_more_honest_client():
    federation = build(small(defense="fltrust", malicious=0.5, momentum=0.5))
    experiment, number = federation.experiment, 2
    server = dataclasses.replace(initial_state(federation), round_number=number)
    seen = []
    play(spying(federation, seen), 1, server)
    stream = generator(experiment.seed, "root-batches", number)
    batches = draw_batches(
        [federation.root_indices], np.zeros(1, bool), stream, steps=3, batch=7, poison_fraction=0.0, drop_last=False
    )
    source = make_batch_source(federation.train_x, federation.train_y, batches, (), torch.zeros(1).long(), 0)
    task = LocalTask(federation.model, same_start(server.params_D), source)
    alone_1D, _ = train_sharded(
        federation.backend, task, server.params_D, experiment.client_optimizer, 1, federation.ranks
    )
    assert seen[0].values.shape == (13, federation.model.layout.size)
    torch.testing.assert_close(seen[0].root_D, alone_1D[0], rtol=0, atol=1e-6)
    assert seen[0].root_D.any()


def test_the_clients_draws_are_those_without_the_servers_row():
    """The same federation under another defense: the same updates, bit for bit."""
    federation = build(small(defense="fltrust"))
    other = dataclasses.replace(federation, defense=make_defense("fedavg", {}))
    for mine, theirs in zip(updates_of(federation, 1), updates_of(other, 1), strict=True):
        assert torch.equal(mine.values, theirs.values)


def test_root_samples_are_no_clients():
    federation = build(small(defense="fltrust", root_samples=50))
    assert len(federation.root_indices) == len(set(federation.root_indices.tolist())) == 50
    assert not set(federation.root_indices.tolist()) & set(np.concatenate(federation.client_indices).tolist())
    assert len(draw_root_data(make_defense("krum", {}), 0, 100, 50)) == 0
    with pytest.raises(UserError, match=r"root_samples=100 leaves the clients no sample; .* allowed: 1 to 99"):
        draw_root_data(make_defense("fltrust", {}), 0, 100, 100)
    with pytest.raises(UserError, match="root_samples=0 is out of range; allowed: at least 1"):
        small(root_samples=0)


def test_nothing_is_computed_that_no_defense_declares():
    (seen,) = updates_of(build(small(defense="krum")))
    assert {value is None for value in vars(seen.server).values()} == {True}
    for name in ("params_D", "previous_D", "layout", "root_D", "sample_shape"):
        with pytest.raises(UserError, match=f"a defense that reads `{name}` must declare needs={{"):
            getattr(seen, name)
    with pytest.raises(UserError, match="the outputs of the clients' models: not available in this round"):
        seen.outputs(torch.zeros(1, 784))
    with pytest.raises(UserError, match="defense 'x' needs magic; allowed: params, history, layers, root_update"):
        Defense("x", (), drifting().apply, needs=frozenset({"magic"}))


@pytest.mark.parametrize("model", ["logistic", "cnn", "mlp"])
def test_outputs_are_those_of_each_local_model(model, monkeypatch):
    """In chunks of a few clients and a few inputs."""
    federation = small_federation(model, "pixel")
    params_D = initial_state(federation).params_D
    updates_ND = 0.01 * torch.randn(7, len(params_D), generator=torch.Generator().manual_seed(0))
    x_B = torch.rand(11, *federation.train_x.shape[1:], generator=torch.Generator().manual_seed(1))
    monkeypatch.setitem(needs.OUTPUT_BYTES, "cpu", 3 * 8 * len(params_D))
    assert needs.output_chunks(federation.model, 11, 144, "cpu")[0] == 3
    found = needs.make_forward(federation.model, params_D)(updates_ND, x_B)
    for update_D, logits in zip(updates_ND, found, strict=True):
        wanted = federation.model.apply(federation.model.layout.views(params_D + update_D), x_B)
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)


def test_the_model_of_the_round_before():
    federation = build(small(defense=DRIFTING))
    seen = updates_of(federation, 3)
    assert torch.equal(seen[0].previous_D, seen[0].params_D)
    assert torch.equal(seen[1].previous_D, seen[0].params_D)
    assert torch.equal(seen[2].previous_D, seen[1].params_D)
    assert initial_state(build(small())).previous_D is None


class StopAfter(CallbackBase):
    def on_round(self, record):
        if record["round"] == 1:
            raise KeyboardInterrupt


def test_a_run_with_a_history_goes_on_where_it_stopped(tmp_path):
    experiment = small(defense=DRIFTING, checkpoint_every=2)
    straight = run(experiment, tmp_path / "straight")
    with pytest.raises(Interrupted):
        run(experiment, tmp_path / "stopped", [StopAfter()])
    resumed = resume(tmp_path / "stopped")
    assert torch.equal(straight.params, resumed.params)
    for name in ("rounds.jsonl", "clients.jsonl"):
        assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    assert RunFolder(tmp_path / "stopped").checkpoint.exists()


@pytest.mark.parametrize("defense", ["fltrust", "flame", "deepsight"])
def test_under_attack_the_model_learns_and_the_backdoor_does_not(defense):
    settings = {"clients": 20, "rounds": 8, "local_steps": 10, "batch_size": 60, "malicious": 0.3, "scale": 5.0}
    chosen = {"samples": 500} if defense == "deepsight" else {}
    summary = run(small(**settings, defense=defense, defense_args=chosen)).summary
    assert summary["accuracy"] > 0.9
    assert summary["attack_success_rate"] < 0.3


def test_a_shadow_may_share_the_root_data_but_not_take_it():
    with pytest.raises(UserError, match=r"shadow='fltrust' needs an update of the server's own .* run it alone"):
        small(shadow="fltrust")
    with pytest.raises(UserError, match="shadow='fltrust' needs"):
        small(defense="autoencoder", shadow="fltrust")
    federation = build(small(defense="fltrust", shadow="fltrust(fallback=uniform)"))
    _, (outcome,) = play(federation)
    assert torch.equal(outcome.shadows[0].decision.scores, outcome.decision.scores)


def test_texts_are_refused_or_trained_densely():
    with pytest.raises(UserError, match=r"deepsight feeds numeric noise .* but the samples of this data set are texts"):
        needs.check_needs([make_defense("flame", {}), make_defense("deepsight", {})], texts=True)
    needs.check_needs([make_defense("flame", {}), make_defense("fltrust", {})], texts=True)
    federation = small_federation("lstm", "sentence", defense="flame")
    sparse, reason = row_sparse(federation.model, [], federation.attack, needs=federation.needs)
    assert (sparse, reason) == (False, "dense: a defense needs params in the columns of all parameters")


def test_the_memory_of_a_round_counts_the_needs():
    plain, rooted, watched, looked = (
        round_memory(build(small(defense=name))) for name in ("fedavg", "fltrust", DRIFTING, "deepsight")
    )
    assert rooted.resident["updates"] == plain.resident["updates"] * 14 / 13
    assert watched.resident["global model"] == plain.resident["global model"] * 4 / 3
    assert not {"outputs", "tampering"} & plain.phases.keys()
    assert looked.phases["outputs"] > 13 * 7850 * 4
