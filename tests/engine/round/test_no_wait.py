"""A round waits for the device nowhere, shown without one: fake tensors have no values to wait for.

Everything but the gradients runs on fake CUDA tensors. Autograd needs a real CUDA device, so local training runs on
fake CPU tensors, which have no values either. Axes: N clients of the round, D parameters.
"""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)

from rflbat.attacks.labels import Poison
from rflbat.attacks.registry import ATTACKS
from rflbat.clients.backend import Backend
from rflbat.clients.executor import same_start
from rflbat.clients.optimizer import Optimizer
from rflbat.clients.row_sparse import LocalTask, on_rows
from rflbat.clients.step import make_batch_source, with_keys
from rflbat.defenses.registry import DEFENSES, make_defense
from rflbat.models.registry import MODELS
from rflbat.round.records import download
from rflbat.round.round import run_drawn_round, run_round
from rflbat.round.setup import empty_state
from tests.engine.brief import BRIEF, NEEDING
from tests.engine.federations import CLIENTS, FORMATS, Gathering, back_ends, is_row_sparse, pairs, small_federation
from tests.engine.simulation.stateful_attack import moving
from tests.engine.test_registry import code_of
from tests.kernels.device_waits import Crossings, cluster_nothing

ONE_COPY = ["_to_copy copies between cpu and cuda"]
WAITS = (DataDependentOutputException, DynamicOutputShapeException)
STEPS = (Optimizer(2, 0.1, 0.9, 0.01), Optimizer(2, 0.1, clip_norm=1.0), Optimizer(2, 0.1, name="adam"))
FETCH = ["_to_copy copies between cpu and cuda"] * 2
"""One declared wait of a defense: its distances go to the host, and the labels come back."""


def crossings(federation):
    """Play the round after the next evaluation; gives the outcome, and what crossed in the round and afterwards."""
    server = replace(empty_state(federation), round_number=federation.experiment.rounds - 1)
    with Crossings(forbidden=False) as round_:
        _, outcome = run_round(federation, server)
    with Crossings(forbidden=False) as afterwards:
        outcome = download(outcome)
    return outcome, round_.seen, afterwards.seen


@pytest.fixture
def fake():
    with FakeTensorMode():
        yield


@pytest.fixture(autouse=True)
def no_clusters_on_the_host(monkeypatch):
    cluster_nothing(monkeypatch)


def assert_one_upload_and_one_download(federation):
    outcome, up, down = crossings(federation)
    assert up == ONE_COPY + FETCH * federation.defense.waits
    assert down == ONE_COPY
    assert outcome.decision.update.device.type == "cuda"
    written = [outcome.measures, outcome.decision.kept, *outcome.decision.trace.values()]
    written += [part for shadow in outcome.shadows for part in (shadow.measures, shadow.decision.weights)]
    assert {part.device.type for part in written} == {"cpu"}


@pytest.mark.parametrize(("model", "attack"), pairs())
def test_a_round_copies_its_draws_up_and_its_record_down_and_waits_for_nothing_else(model, attack, fake):
    assert_one_upload_and_one_download(small_federation(model, attack, backend=Gathering(), device="cuda"))


@pytest.mark.parametrize("defense", DEFENSES)
def test_so_it_does_under_every_defense_with_another_that_looks_on(defense, fake):
    shadow = "krum" if defense != "krum" else "multikrum"
    settings = {"defense": defense, "defense_args": BRIEF.get(defense), "shadow": shadow}
    assert_one_upload_and_one_download(
        small_federation("logistic", "pixel", backend=Gathering(), device="cuda", **settings)
    )


def test_so_it_does_with_the_attack_of_the_tutorial(fake):
    """The tutorial's code keeps the rule that it teaches."""
    names = {}
    exec(code_of("own_attack.md"), names)
    federation = small_federation("logistic", "pixel", backend=Gathering(), device="cuda")
    attack = names["checkerboard"](replace(FORMATS["logistic"], device="cuda"), 3.0)
    assert_one_upload_and_one_download(replace(federation, attack=attack))


def test_so_it_does_with_tables_of_labels(fake):
    federation = small_federation("logistic", "label_flip", backend=Gathering(), device="cuda")
    tables = {}
    for name, labels_n in (("poison", federation.train_y), ("test_poison", federation.test_y)):
        tables[name] = Poison(torch.zeros_like(labels_n), torch.ones_like(labels_n, dtype=torch.bool))
    assert_one_upload_and_one_download(replace(federation, **tables))


def test_so_it_does_with_samples_and_a_state_of_the_attack(fake):
    federation = small_federation("logistic", "pixel", backend=Gathering(), device="cuda")
    attack = moving(replace(FORMATS["logistic"], device="cuda"), 1.0)
    attack = replace(attack, success="test set", extra=lambda: None, history=True, knowledge="model")
    more = {"extra_samples": 5, "extra_x": torch.zeros_like(federation.test_x[:3])}
    assert_one_upload_and_one_download(replace(federation, attack=attack, **more))


def test_every_model_and_attack_is_proved():
    models, attacks = zip(*pairs(), strict=True)
    assert set(models) == set(MODELS)
    # The samples here are not of 1 x 28 x 28 pixels.
    assert set(attacks) == set(ATTACKS) - {"edge_case"}


def train(federation, draws, optimizer=STEPS[0]):
    """Local training alone, as in a round: on a CPU the server may ask numpy, which fake tensors refuse."""
    params_D = empty_state(federation).params_D
    task = LocalTask(federation.model, same_start(params_D), make_batch_source_of(federation, draws))
    task = task if draws.touched is None else on_rows(task, draws.touched)
    updates_NQ = torch.empty(CLIENTS, task.model.layout.size)
    federation.backend.train(updates_NQ, task.start, task.model, task.batch_source, optimizer)
    return updates_NQ


def make_batch_source_of(federation, draws):
    triggers = federation.attack.local_triggers
    group_N = (draws.malicious_N.cumsum(0) - 1) % len(triggers)
    target, poison = federation.experiment.target, federation.poison
    own = make_batch_source(federation.train_x, federation.train_y, draws.batches, triggers, group_N, target, poison)
    return with_keys(own, draws.key_N)


def planned(federation, monkeypatch):
    """The plan of the federation's last round, on the host."""
    with monkeypatch.context() as patch:
        patch.setattr("rflbat.round.round.run_drawn_round", lambda federation, server, draws: draws)
        return run_round(federation, replace(empty_state(federation), round_number=federation.experiment.rounds - 1))


@pytest.mark.parametrize(
    ("model", "attack", "backend"), [(model, attack, name) for model, attack in pairs() for name in back_ends(model)]
)
def test_local_training_asks_for_no_value(model, attack, backend, fake, monkeypatch):
    federation = small_federation(model, attack, backend=Backend(backend, 5, 1, ""))
    draws = planned(federation, monkeypatch)
    for optimizer in STEPS:
        assert isinstance(train(federation, draws, optimizer), FakeTensor)


TEXTS = [pair for pair in pairs() if is_row_sparse(small_federation(*pair))]


def row_sparse_plan(model, attack, monkeypatch, defense="fedavg"):
    """With values: the host looks up which rows are touched."""
    federation = small_federation(model, attack, defense=defense, backend=Gathering())
    draws = planned(replace(federation, host_texts=(federation.train_x, federation.train_y)), monkeypatch)
    assert draws.touched.rows < federation.model.layout.shapes[federation.model.embedding][0]
    return draws


@pytest.mark.parametrize(("model", "attack"), TEXTS)
def test_local_training_on_touched_rows_asks_for_no_value(model, attack, monkeypatch):
    draws = row_sparse_plan(model, attack, monkeypatch)
    with FakeTensorMode(allow_non_fake_inputs=True):
        federation = small_federation(model, attack, backend=Backend("vmap", 5, 1, ""))
        assert isinstance(train(federation, draws), FakeTensor)


@pytest.mark.parametrize("defense", [name for name in DEFENSES if name not in NEEDING])
@pytest.mark.parametrize(("model", "attack"), TEXTS[:1])
def test_a_round_of_row_sparse_updates_waits_for_nothing(model, attack, defense, monkeypatch):
    draws = row_sparse_plan(model, attack, monkeypatch, defense)
    with FakeTensorMode(allow_non_fake_inputs=True):
        federation = small_federation(model, attack, backend=Gathering(), device="cuda")
        federation = replace(federation, defense=make_defense(defense, BRIEF.get(defense, {})))
        with Crossings(forbidden=False) as up:
            there = draws.to("cuda")
        server = replace(empty_state(federation), round_number=draws.round_number)
        with Crossings():
            _, outcome = run_drawn_round(federation, server, there)
    assert up.seen == ONE_COPY
    assert outcome.measures.device.type == "cuda"


# Waits at each place are detected: without these tests the ones above could pass for the wrong reason.


def trigger(x, on_B):
    return x if on_B.any() else x.clone()


def tamper(own_MD, view, draw):
    own_MD[(own_MD[:, 0] > 0).nonzero()] *= 2
    return own_MD


def apply(parameters, x):
    return x.flatten(1)[:, :5] / x.max().item()


def gradient(named, x_nB, labels_nB, weight_nB):
    return {name: value * float(weight_nB.sum()) for name, value in named.items()}


def decision(updates, state, draw):
    return updates.gram.raw_NN.tolist()


PLANTED = {
    "trigger": lambda federation: replace(federation, attack=replace(federation.attack, local_triggers=(trigger,))),
    "trigger at test time": lambda federation: replace(
        federation, attack=replace(federation.attack, full_trigger=trigger)
    ),
    "tamper": lambda federation: replace(federation, attack=replace(federation.attack, tamper=tamper)),
    "defense": lambda federation: replace(federation, defense=replace(federation.defense, apply=decision)),
    "shadow": lambda federation: replace(federation, shadows=(replace(federation.defense, apply=decision),)),
    "evaluation": lambda federation: replace(federation, model=replace(federation.model, apply=apply)),
}
IN_TRAINING = {
    "model": ("vmap", lambda federation: replace(federation, model=replace(federation.model, apply=apply))),
    "gradient": (
        "analytic",
        lambda federation: replace(federation, model=replace(federation.model, gradient=gradient)),
    ),
    "trigger": ("vmap", PLANTED["trigger"]),
}


@pytest.mark.parametrize("place", PLANTED)
def test_control_a_wait_in_a_round_is_found(place, fake):
    federation = PLANTED[place](
        small_federation("logistic", "pixel", shadow="krum", backend=Gathering(), device="cuda")
    )
    with pytest.raises(WAITS):
        crossings(federation)


@pytest.mark.parametrize("place", IN_TRAINING)
def test_control_a_wait_in_local_training_is_found(place, fake, monkeypatch):
    backend, plant = IN_TRAINING[place]
    federation = plant(small_federation("logistic", "pixel", backend=Backend(backend, 5, 1, "")))
    with pytest.raises(RuntimeError, match=r"\.item\(\)|_local_scalar_dense"):
        train(federation, planned(federation, monkeypatch))


def test_control_a_copy_in_a_round_is_found(fake):
    federation = small_federation("logistic", "pixel", backend=Gathering(), device="cuda")
    inner = federation.defense.apply

    def look(updates, state, draw):
        return inner(replace(updates, sizes_N=updates.sizes_N.cpu().to(updates.matrix_ND.device)), state, draw)

    _, up, _ = crossings(replace(federation, defense=replace(federation.defense, apply=look)))
    assert up == ONE_COPY * 3
