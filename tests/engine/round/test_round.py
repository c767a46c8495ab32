"""One round: draws, training, tampering, defense, the move of the server, measures.

Legend of the suffixes: N clients of the round, D parameters.
"""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import rflbat.round.draws
from rflbat.randomness import draw_source
from rflbat.round.draws import draw_clients, draw_roles
from rflbat.round.setup import build, initial_state
from tests.engine.rounds import play, small, updates_of
from tests.oracles import training as oracle

BACKENDS = [{"backend": "loop"}, *({"backend": "vmap", "chunk": chunk} for chunk in (1, 3, 7, 13))]


# Draws depend on nothing but the key.


@pytest.fixture
def plans(monkeypatch):
    """The plans of batches of all rounds that a test plays."""
    seen, draw = [], rflbat.round.draws.draw_batches
    monkeypatch.setattr(
        rflbat.round.draws, "draw_batches", lambda *args, **named: seen.append(draw(*args, **named)) or seen[-1]
    )
    return seen


@pytest.mark.parametrize("defense", ["rflbat", "foolsgold"])
def test_back_end_and_chunk_change_no_draw_and_nobody_s_fate(plans, defense):
    experiment = small(defense=defense, partition="dirichlet", alpha=0.5, participants=11, momentum=0.5)
    played = []
    for settings in BACKENDS:
        server, outcomes = play(build(dataclasses.replace(experiment, **settings)), 3)
        played.append((server, outcomes, plans[-3:]))
    (server, outcomes, batches), *others = played
    for other_server, other_outcomes, other_batches in others:
        for one, other in zip(batches, other_batches, strict=True):
            for item in dataclasses.fields(one):
                assert torch.equal(getattr(one, item.name), getattr(other, item.name))
        for one, other in zip(outcomes, other_outcomes, strict=True):
            np.testing.assert_array_equal(one.clients_N, other.clients_N)
            np.testing.assert_array_equal(one.malicious_N, other.malicious_N)
            assert torch.equal(one.decision.kept, other.decision.kept)
            assert torch.equal(one.decision.trace["stage"], other.decision.trace["stage"])
            torch.testing.assert_close(one.decision.weights, other.decision.weights, rtol=0, atol=1e-4)
        torch.testing.assert_close(server.params_D, other_server.params_D, rtol=0, atol=1e-5)


def test_roles_change_no_batch(plans):
    for settings in ({"malicious": 0.0}, {"malicious": 0.7}, {"malicious": 0.7, "roles": "fixed"}):
        play(build(small(**settings)), 3)
    for number in range(3):
        for other in (number + 3, number + 6):
            assert torch.equal(plans[number].index_NSB, plans[other].index_NSB)
            assert torch.equal(plans[number].weight_NSB, plans[other].weight_NSB)
        assert not plans[number].poisoned_NSB.any()


def test_malicious_clients_alone_poison_their_batches(plans):
    _, outcomes = play(build(small(malicious=0.4, attack_start=1)), 3)
    for outcome, draws in zip(outcomes, plans, strict=True):
        np.testing.assert_array_equal(draws.poisoned_NSB.any(-1).all(-1).numpy(), outcome.malicious_N)
        np.testing.assert_array_equal(draws.poisoned_NSB.any(-1).any(-1).numpy(), outcome.malicious_N)
    assert [int(outcome.malicious_N.sum()) for outcome in outcomes] == [0, 5, 5]


def test_batches_differ_between_rounds_and_seeds(plans):
    play(build(small()), 2)
    play(build(small(seed=1)), 1)
    for one, other in itertools.combinations(plans, 2):
        assert not torch.equal(one.index_NSB, other.index_NSB)


def test_the_defense_draws_from_the_stream_of_its_round():
    federation, seen = build(small(seed=5)), []

    def apply(updates, state, draw):
        seen.append((draw(3, 7), draw(1)))
        return federation.defense.apply(updates, state, draw)

    drawing = dataclasses.replace(federation.defense, apply=apply, num_uniforms=lambda *_: 22)
    play(dataclasses.replace(federation, defense=drawing), 3)
    for number, drawn in enumerate(seen):
        stream = draw_source(5, "defense", number, "cpu")
        assert torch.equal(drawn[0], stream(3, 7))
        assert torch.equal(drawn[1], stream(1))


# Behaviour of a round.


@pytest.mark.parametrize("optimizer", [{}, {"momentum": 0.9, "weight_decay": 0.01}])
def test_a_round_of_fedavg_equals_the_oracle(plans, optimizer):
    experiment = small(clients=361, participants=3, local_steps=2, batch_size=3, malicious=0.3, scale=5.0, **optimizer)
    federation = build(experiment)
    before = initial_state(federation)
    after, (outcome,) = play(federation)
    start = federation.model.layout.views(before.params_D.double())
    weights = [start["weight"].numpy(), start["bias"].numpy()]
    changes, sizes = [], []
    for row, client in enumerate(outcome.clients_N):
        batches = []
        for step in range(2):
            batch = []
            for place in np.flatnonzero(plans[0].weight_NSB[row, step].numpy()):
                position = plans[0].index_NSB[row, step, place]
                assert position in federation.client_indices[client]
                sample = oracle.Sample(federation.train_x[position].double().numpy(), int(federation.train_y[position]))
                poisoned = plans[0].poisoned_NSB[row, step, place]
                batch.append(oracle.poison(sample, 3, 1.0, 0) if poisoned else sample)
            batches.append(batch)
        trained = oracle.train(*weights, batches, lr=0.1, **optimizer)
        factor = 5.0 if outcome.malicious_N[row] else 1.0
        changes.append(factor * np.concatenate([(t - w).reshape(-1) for t, w in zip(trained, weights, strict=True)]))
        sizes.append(len(federation.client_indices[client]))
    expected_D = sum(size * change for size, change in zip(sizes, changes, strict=True)) / sum(sizes)
    assert outcome.malicious_N.sum() == 1
    assert abs(expected_D).max() > 0.01
    np.testing.assert_allclose((after.params_D - before.params_D).numpy(), expected_D, rtol=0, atol=1e-6)


def test_the_defense_is_told_sizes_ids_and_the_true_number():
    federation = build(small(participants=7, malicious=0.4, partition="dirichlet"))
    for number, updates in enumerate(updates_of(federation, 3)):
        ids_N = draw_clients(federation.experiment, number)
        assert updates.client_ids_N.tolist() == ids_N.tolist()
        assert updates.sizes_N.tolist() == [len(federation.client_indices[client]) for client in ids_N]
        assert updates.sizes_N.dtype == torch.float64
        assert updates.valid_N.all()
        assert updates.malicious_count == 3


def test_scaling_touches_malicious_rows_alone():
    (plain,), (scaled,) = (updates_of(build(small(malicious=0.4, scale=scale))) for scale in (1.0, 100.0))
    malicious_N = torch.from_numpy(draw_roles(small(malicious=0.4), 0, np.arange(13)))
    assert malicious_N.sum() == 5
    assert torch.equal(scaled.matrix_ND[~malicious_N], plain.matrix_ND[~malicious_N])
    assert torch.equal(scaled.matrix_ND[malicious_N], 100 * plain.matrix_ND[malicious_N])


@pytest.mark.parametrize("server_lr", [1.0, 0.25, 3.0])
def test_the_server_moves_by_its_learning_rate(server_lr):
    federation = build(small(server_lr=server_lr))
    before = initial_state(federation)
    after, (outcome,) = play(federation)
    assert after.round_number == 1
    torch.testing.assert_close(after.params_D, before.params_D + server_lr * outcome.decision.update, rtol=0, atol=1e-6)
    assert outcome.decision.update.abs().max() > 0.001


def test_a_round_writes_into_nothing_it_was_given():
    federation = build(small(malicious=0.5, defense="foolsgold"))
    start, _ = play(federation)
    tensors = [
        federation.train_x,
        federation.train_y,
        federation.test_x,
        federation.test_y,
        start.params_D,
        start.defense_state.history_CD,
    ]
    kept = [tensor.clone() for tensor in tensors]
    play(federation, start=start)
    for tensor, before in zip(tensors, kept, strict=True):
        assert torch.equal(tensor, before)
    assert start.round_number == 1


def test_the_same_round_again_is_the_same_bit_for_bit():
    federation = build(small(defense="rflbat"))
    (one, (first,)), (two, (second,)) = play(federation), play(federation)
    assert torch.equal(one.params_D, two.params_D)
    assert torch.equal(first.measures, second.measures)


@pytest.mark.parametrize(("every", "measured"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (3, [2, 3]), (99, [3])])
def test_rounds_are_measured_on_schedule_and_at_the_end(every, measured):
    _, outcomes = play(build(small(eval_every=every)), 4)
    assert [outcome.round_number for outcome in outcomes if outcome.measures is not None] == measured
