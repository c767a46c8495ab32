"""Root data: no client has its samples, other defenses ignore it, and a resumed run keeps the trained state.

Legend of the suffixes: N clients, D parameters.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch

import rflbat.round.root_data
import rflbat.simulation.loop
from rflbat import Experiment, Interrupted, UserError, resume, run
from rflbat.data.partition import partition
from rflbat.data.registry import load
from rflbat.defenses.base import state_tensors
from rflbat.defenses.registry import make_defense
from rflbat.randomness import generator
from rflbat.round.root_data import CLIENTS, ROUNDS, clean_updates, draw_root_data
from rflbat.round.setup import build, divide, empty_state, initial_state
from rflbat.storage.tensors import load_tensors

QUICK = {"surrogate": 200, "hidden": 16, "code": 4, "epochs": 5}
SAMPLES, HELD_OUT = 1442, 144


def small(**settings):
    fixed = {"clients": 13, "participants": 9, "rounds": 4, "local_steps": 3, "batch_size": 7, "checkpoint_every": 2}
    learning = {"defense": "autoencoder", "defense_args": QUICK}
    return Experiment(**{**fixed, **learning, **settings})


class StopAfter:
    def __init__(self, last):
        self.last = last

    def on_start(self, described):
        pass

    def on_round(self, record):
        if record["round"] == self.last:
            raise KeyboardInterrupt

    def on_end(self, summary):
        pass


def same(one, two):
    return all(torch.equal(state_tensors(one)[name], value) for name, value in state_tensors(two).items())


@pytest.mark.parametrize("kind", ["iid", "dirichlet"])
def test_every_sample_is_held_out_or_one_clients(kind):
    federation = build(small(partition=kind))
    assert len(federation.root_indices) == HELD_OUT
    everything = np.concatenate([federation.root_indices, *federation.client_indices])
    assert np.sort(everything).tolist() == list(range(SAMPLES))
    assert all((np.diff(own) > 0).all() for own in federation.client_indices)


def test_the_draw_is_of_the_seed_alone():
    federation = build(small())
    for changed in ({"partition": "dirichlet"}, {"clients": 20}, {"defense_args": {}}, {"malicious": 0.1}):
        np.testing.assert_array_equal(build(small(**changed)).root_indices, federation.root_indices)
    assert build(small(seed=1)).root_indices.tolist() != federation.root_indices.tolist()


@pytest.mark.parametrize("kind", ["iid", "dirichlet"])
def test_other_defenses_get_all_samples_as_ever(kind, monkeypatch):
    def never(*args):
        raise AssertionError

    experiment = small(defense="fedavg", defense_args={}, partition=kind)
    monkeypatch.setattr(rflbat.round.root_data, "generator", never)
    monkeypatch.setattr(rflbat.round.root_data, "clean_updates", never)
    federation = build(experiment)
    labels = federation.train_y.numpy()
    expected = partition(kind, labels, 13, experiment.alpha, generator(0, "partition"))
    assert [own.tolist() for own in federation.client_indices] == [own.tolist() for own in expected]
    assert len(federation.root_indices) == 0
    assert run(experiment).summary["rounds"] == 4


def test_writers_keep_their_own_samples():
    dataset = load("digits", None, ())
    writers = np.random.default_rng(0).integers(0, 30, SAMPLES)
    dataset = dataclasses.replace(dataset, train_writers=torch.from_numpy(writers))
    held_out = draw_root_data(make_defense("autoencoder", {}), 0, SAMPLES)
    samples = divide(small(partition="natural", clients=30), dataset, held_out)
    for writer, own in enumerate(samples):
        assert set(writers[own]) == {writer}
    assert np.sort(np.concatenate([held_out, *samples])).tolist() == list(range(SAMPLES))
    some = divide(small(partition="natural", clients=8, participants=8), dataset, held_out)
    for own in some:
        (writer,) = set(writers[own])
        assert own.tolist() == samples[writer].tolist()


def test_clean_updates_are_rounds_of_plain_fedavg_among_honest_clients():
    """One step with all samples of a client is one gradient, which needs no draw of batches to check."""
    federation = build(small(local_steps=1, batch_size=100, server_lr=0.5))
    start_D = empty_state(federation).params_D
    found_MD = clean_updates(federation, start_D)
    assert found_MD.shape == (CLIENTS * ROUNDS, federation.model.layout.size)
    order = generator(0, "held-out-clients").permutation(federation.root_indices)
    shares = [torch.from_numpy(own) for own in np.array_split(order, CLIENTS)]
    assert [len(own) for own in shares] == [15] * 4 + [14] * 6
    params_D = start_D.clone()
    for number in range(3):
        updates = []
        for own in shares:
            leaf_D = params_D.clone().requires_grad_()
            logits = federation.model.apply(federation.model.layout.views(leaf_D), federation.train_x[own])
            loss = torch.nn.functional.cross_entropy(logits, federation.train_y[own])
            updates.append(-federation.experiment.lr * torch.autograd.grad(loss, leaf_D)[0])
        rows = slice(number * CLIENTS, (number + 1) * CLIENTS)
        torch.testing.assert_close(found_MD[rows], torch.stack(updates), rtol=1e-4, atol=1e-6)
        params_D = params_D + 0.5 * sum(len(own) / HELD_OUT * each for own, each in zip(shares, updates, strict=True))


def test_it_learns_the_same_each_time_and_only_the_defense_does():
    federation = build(small())
    one, two, blank = initial_state(federation), initial_state(build(small())), empty_state(federation)
    assert same(one.defense_state, two.defense_state)
    assert torch.equal(one.params_D, blank.params_D)
    assert (float(one.defense_state.trained), float(blank.defense_state.trained)) == (1.0, 0.0)
    assert {name: value.shape for name, value in state_tensors(blank.defense_state).items()} == {
        name: value.shape for name, value in state_tensors(one.defense_state).items()
    }


@pytest.mark.parametrize("backend", ["vmap", "loop"])
def test_the_back_end_changes_little(backend):
    federation, other = build(small()), build(small(backend=backend))
    start_D = empty_state(federation).params_D
    torch.testing.assert_close(clean_updates(federation, start_D), clean_updates(other, start_D), rtol=1e-4, atol=1e-5)


def test_run_json_says_how_many(tmp_path):
    run(small(rounds=1), tmp_path / "learning")
    run(small(rounds=1, defense="fedavg", defense_args={}), tmp_path / "other")
    learning, other = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("learning", "other"))
    assert (learning["held_out"], sum(learning["sizes"])) == (HELD_OUT, SAMPLES - HELD_OUT)
    assert (other["held_out"], sum(other["sizes"])) == (0, SAMPLES)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return run(small(), tmp_path_factory.mktemp("straight") / "run")


def assert_same(result, expected):
    assert torch.equal(result.params, expected.params)
    for name in ("rounds.jsonl", "clients.jsonl"):
        assert (result.folder / name).read_bytes() == (expected.folder / name).read_bytes()
    tensors, others = (load_tensors(each.folder / "checkpoint.safetensors")[0] for each in (result, expected))
    assert tensors.keys() == others.keys()
    assert "defense.weight1_HS" in tensors
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


@pytest.mark.parametrize("last", [0, 1, 2])
def test_interrupted_and_resumed_equals_straight(straight, tmp_path, monkeypatch, last):
    with pytest.raises(Interrupted):
        run(small(), tmp_path / "run", [StopAfter(last)])

    def never(federation):
        raise AssertionError("what was learned lies in the checkpoint")

    monkeypatch.setattr(rflbat.simulation.loop, "initial_state", never)
    assert_same(resume(tmp_path / "run"), straight)


def test_interrupted_while_it_learns_and_resumed_equals_straight(straight, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rflbat.simulation.loop, "initial_state", stop)
        with pytest.raises(Interrupted) as caught:
            run(small(), tmp_path / "run")
    assert (caught.value.folder, caught.value.rounds) == (tmp_path / "run", 0)
    assert_same(resume(tmp_path / "run"), straight)


def test_it_finds_malicious_clients_it_has_never_seen():
    result = run(Experiment(clients=40, rounds=3, malicious=0.1, defense="autoencoder"))
    assert result.summary["recall"] >= 0.9
    assert result.summary["false_positive_rate"] <= 0.2


@pytest.mark.parametrize(("samples", "message"), [(90, "got 90 training samples"), (0, "got 0 training samples")])
def test_too_few_samples(samples, message):
    with pytest.raises(UserError, match=f"autoencoder needs at least 10 samples of root data.*{message}"):
        draw_root_data(make_defense("autoencoder", {}), 0, samples)
    assert len(draw_root_data(make_defense("fedavg", {}), 0, samples)) == 0
