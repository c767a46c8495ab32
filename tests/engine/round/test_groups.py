"""Groups of clients with programs of their own: what changes for the malicious clients changes for no other."""

import dataclasses

import numpy as np
import pytest
import torch

from rflbat import Experiment, UserError, run
from rflbat.clients.executor import same_start
from rflbat.clients.row_sparse import LocalTask, row_sparse
from rflbat.round import setup
from rflbat.round.draws import draw_round
from rflbat.round.groups import train_groups
from rflbat.round.round import _batch_source
from rflbat.round.setup import build, empty_state
from tests.engine.ranks.launch import drive

SMALL = {
    **{"dataset": "digits", "clients": 12, "rounds": 2, "malicious": 0.4, "local_steps": 3, "batch_size": 8},
    **{"defense": "fedavg", "device": "cpu"},
}


def trained(experiment: Experiment, number: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Updates of one round before tampering, and the roles."""
    federation = build(experiment)
    params_D = empty_state(federation).params_D
    fraction = federation.attack.poison_fraction
    draws = draw_round(federation.experiment, number, federation.client_indices, fraction, 0)
    source = _batch_source(
        federation, federation.train_x, federation.train_y, draws, federation.poison, federation.attack.local_triggers
    )
    updates_ND, _ = train_groups(federation, LocalTask(federation.model, same_start(params_D), source), params_D, draws)
    return updates_ND, draws.malicious


@pytest.mark.parametrize("backend", ["vmap", "loop", "analytic"])
@pytest.mark.parametrize(
    "own",
    [
        {"attack_rule": "pgd", "attack_rule_args": {"radius": 0.01}},
        {"attack_rule": "constrain_and_scale"},
        {"attack_lr": 0.5},
        {"attack_momentum": 0.5},
        {"attack_weight_decay": 0.1},
        {"attack_steps": 30},
        {"attack_epochs": 2},
    ],
    ids=lambda own: ",".join(f"{name}={value}" for name, value in own.items()),
)
def test_the_malicious_clients_train_by_their_own_program(backend, own):
    plain_ND, malicious_N = trained(Experiment(**SMALL, backend=backend))
    other_ND, roles_N = trained(Experiment(**SMALL, backend=backend, **own))
    assert (roles_N == malicious_N).all()
    assert malicious_N.any()
    assert not malicious_N.all()
    torch.testing.assert_close(other_ND[~malicious_N], plain_ND[~malicious_N], rtol=0, atol=1e-7)
    assert (abs(other_ND - plain_ND).amax(1) > 1e-5).numpy()[malicious_N].all()


def test_no_malicious_norm_is_above_the_radius():
    updates_ND, malicious_N = trained(
        Experiment(**SMALL, attack_rule="pgd", attack_rule_args={"radius": 0.01}, attack_steps=30)
    )
    norms_N = updates_ND.double().norm(dim=1).numpy()
    assert norms_N[malicious_N].max() < 0.01 * (1 + 1e-4)
    assert norms_N[~malicious_N].min() > 0.01


def test_a_rule_of_the_honest_clients_leaves_the_malicious_alone():
    plain_ND, malicious_N = trained(Experiment(**SMALL))
    other_ND, _ = trained(Experiment(**SMALL, local_rule="fedprox", local_rule_args={"mu": 1.0}))
    torch.testing.assert_close(other_ND[malicious_N], plain_ND[malicious_N], rtol=0, atol=1e-7)
    assert (abs(other_ND - plain_ND).amax(1) > 1e-5).numpy()[~malicious_N].all()


def test_epochs_give_each_client_steps_by_its_samples():
    settings = {**SMALL, "partition": "dirichlet", "alpha": 0.5, "local_epochs": 1, "malicious": 0.0}
    federation = build(Experiment(**settings))
    draws = draw_round(federation.experiment, 0, federation.client_indices, 0.0, 0)
    taken_N = (draws.batches.weight_NSB.sum(2) > 0).sum(1)
    assert taken_N.tolist() == [-(-len(own) // 8) for own in federation.client_indices]
    assert draws.groups[0].ragged
    used_N = draws.batches.weight_NSB.sum((1, 2))
    assert used_N.tolist() == [len(own) for own in federation.client_indices]


def test_the_schedule_scales_the_learning_rate_of_its_round():
    halved = Experiment(**SMALL, lr=0.2, lr_schedule="step", lr_schedule_args={"every": 1, "factor": 0.5})
    plain_ND, _ = trained(Experiment(**SMALL, lr=0.1), number=1)
    torch.testing.assert_close(trained(halved, number=1)[0], plain_ND, rtol=0, atol=0)


TEXTS = {
    **{"dataset": "tests.engine.round.small_texts:small_texts", "clients": 6, "rounds": 2, "malicious": 0.4},
    **{"local_steps": 3, "batch_size": 4, "defense": "fedavg", "device": "cpu", "attack": "sentence"},
}


@pytest.mark.parametrize(
    "rules",
    [
        {"local_rule": "fedprox", "local_rule_args": {"mu": 1.0}},
        {"attack_rule": "pgd", "attack_rule_args": {"radius": 0.5}, "attack_steps": 5},
        {"attack_rule": "constrain_and_scale", "attack_lr": 0.05},
    ],
    ids=str,
)
def test_row_sparse_texts_give_the_same_updates_as_dense_ones(monkeypatch, rules):
    experiment = Experiment(**TEXTS, **rules)
    sparse = run(experiment)
    monkeypatch.setattr(setup, "row_sparse", lambda *given: (False, "dense: for this test"))
    dense = run(experiment)
    torch.testing.assert_close(sparse.params, dense.params, rtol=0, atol=1e-5)


def test_a_rule_that_reads_all_parameters_makes_text_updates_dense():
    rules = {"attack_rule": "constrain_and_scale", "attack_rule_args": {"distance": "cosine"}}
    federation = build(Experiment(**TEXTS, **rules))
    answer = row_sparse(federation.model, federation.experiment.optimizers, federation.attack)
    assert answer == (False, "dense: local rule 'constrain_and_scale' reads every row of embedding.weight")


def test_ranks_train_groups_as_one_process_does(tmp_path):
    settings = {**SMALL, "attack_rule": "pgd", "attack_rule_args": {"radius": 0.2}, "attack_steps": 7}
    alone = run(Experiment(**settings))
    accounts = drive(2, tmp_path, [["run", "groups", settings]])
    for account in accounts:
        rounds = account["groups"]["rounds"]
        assert [record["accuracy"] for record in rounds] == [record["accuracy"] for record in alone.rounds]


def test_the_attack_lasts_for_its_window():
    settings = {**SMALL, "rounds": 8, "attack_start": 1, "attack_stop": 6, "attack_every": 2, "malicious": 0.5}
    assert [record["malicious"] for record in run(Experiment(**settings)).rounds] == [0, 6, 0, 6, 0, 6, 0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attack_steps": 0}, "attack_steps=0 is out of range"),
        ({"attack_steps": 2, "attack_epochs": 1}, "attack_steps and attack_epochs are both set"),
        ({"attack_lr": -1.0}, "attack_lr=-1.0 is out of range"),
        ({"attack_momentum": 1.0}, "attack_momentum=1.0 is out of range"),
        ({"attack_momentum": 0.5, "optimizer": "adam"}, "attack_momentum=0.5 belongs to optimizer='sgd'"),
        ({"attack_stop": 3, "attack_start": 3}, "attack_stop=3 is out of range; allowed: at least 4"),
        ({"lr_schedule": "steps"}, "did you mean 'step'"),
        ({"lr_schedule": "step"}, "every"),
        ({"attack_rule": "pgd"}, "radius"),
        ({"local_epochs": 0}, "local_epochs=0 is out of range"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(UserError, match=message):
        Experiment(**{**SMALL, **settings})


def test_fields_of_a_run_without_rules_are_as_before():
    assert dataclasses.asdict(Experiment(**SMALL))["attack_rule"] is None
    assert Experiment(**SMALL).attack_optimizer is None
