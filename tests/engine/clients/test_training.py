"""Local training: the back ends against each other, against torch.optim and against a float64 loop.

Legend of the suffixes: n samples, N clients, D parameters, S local steps, B batch.
"""

import dataclasses
import functools
from itertools import product

import numpy as np
import pytest
import torch

from rflbat.attacks.base import SampleFormat
from rflbat.attacks.pixel import pixel
from rflbat.clients.batches import draw_batches
from rflbat.clients.optimizer import Optimizer
from rflbat.clients.registry import OPTIMIZERS as OPTIMIZER_NAMES
from rflbat.clients.step import make_batch_source
from rflbat.models.logistic import logistic
from rflbat.parameters import Layout
from tests.engine.clients.training import back_ends, optimizers, told, torch_steps, train
from tests.oracles import training as oracle

SHAPE, CLASSES, TARGET, INK = (2, 5, 3), 4, 1, 1.5
SIZES = (1, 2, 7, 5, 13, 8, 1)  # with batches of 5: padded always, short last batches, full ones
MALICIOUS = np.array([False, True, True, False, True, False, True])
BATCH, STEPS, N = 5, 6, len(SIZES)
MODEL = logistic(SHAPE, CLASSES)
TRIGGER = pixel(SampleFormat(SHAPE, INK), 1.0, size=2).full_trigger
OPTIMIZERS = optimizers(STEPS, 0.3)
BACKENDS = back_ends(N, analytic=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A training set, the plan of a round and the start vectors, which differ between clients."""

    x: torch.Tensor
    labels: torch.Tensor
    draws: object
    params_ND: torch.Tensor

    def batch_source(self, **changes):
        values = {"x": self.x, "labels": self.labels, "batches": self.draws, **changes}
        group_N = torch.zeros(N, dtype=torch.int64)
        return make_batch_source(**{"triggers": (TRIGGER,), "group_N": group_N, "target": TARGET, **values})

    def trained(self, backend, sgd, **changes):
        return train(BACKENDS[backend], self.params_ND, MODEL, self.batch_source(**changes), sgd)


def make_problem(dtype=torch.float64):
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(N), SIZES)
    samples = [np.flatnonzero(owner == client) + 1 for client in range(N)]
    draws = draw_batches(samples, MALICIOUS, rng, steps=STEPS, batch=BATCH, poison_fraction=0.5)
    x = torch.from_numpy(rng.uniform(0, 1, (sum(SIZES) + 1, *SHAPE))).to(dtype)
    labels = torch.from_numpy(rng.integers(0, CLASSES, len(x)))
    return Problem(x, labels, draws, torch.from_numpy(rng.normal(0, 0.5, (N, MODEL.layout.size))).to(dtype))


PROBLEM = make_problem()


def poisoned_batches(problem, client):
    """The batches of a client as lists of samples without padding; the oracle stamps them."""
    draws, batches = problem.draws, []
    for step in range(STEPS):
        batch = []
        for place in np.flatnonzero(draws.weight_NSB[client, step].numpy()):
            position = int(draws.index_NSB[client, step, place])
            sample = oracle.Sample(problem.x[position].double().numpy(), int(problem.labels[position]))
            stamped = bool(draws.poisoned_NSB[client, step, place])
            batch.append(oracle.poison(sample, 2, INK, TARGET) if stamped else sample)
        batches.append(batch)
    return batches


@functools.cache
def by_oracle(problem, sgd):
    rows = []
    for client in range(N):
        start = MODEL.layout.views(problem.params_ND[client].double())
        weight, bias = oracle.train(
            start["weight"].numpy(),
            start["bias"].numpy(),
            poisoned_batches(problem, client),
            lr=sgd.lr,
            momentum=sgd.momentum,
            weight_decay=sgd.weight_decay,
            clip_norm=sgd.clip_norm,
            adam=sgd.name == "adam",
        )
        rows.append(np.concatenate([weight.reshape(-1), bias]))
    return np.stack(rows)


@functools.cache
def by_torch(problem, sgd):
    """torch.nn.Linear and torch.optim, with the oracle's batches: shares no line with the engine's training."""
    rows = []
    for client in range(N):
        linear = torch.nn.Linear(MODEL.layout.shapes["weight"][1], CLASSES, dtype=torch.float64)
        torch.nn.utils.vector_to_parameters(problem.params_ND[client].clone(), linear.parameters())
        step = torch_steps(linear, sgd)
        for batch in poisoned_batches(problem, client):
            x = torch.stack([torch.from_numpy(sample.image).flatten() for sample in batch])
            labels = torch.tensor([sample.label for sample in batch])
            step(torch.nn.functional.cross_entropy(linear(x), labels))
        rows.append(torch.nn.utils.parameters_to_vector(linear.parameters()).detach().numpy())
    return np.stack(rows)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sgd", OPTIMIZERS, ids=told)
def test_back_ends_equal_the_oracle_and_torch(backend, sgd):
    trained_ND = PROBLEM.trained(backend, sgd).numpy()
    np.testing.assert_allclose(trained_ND, by_oracle(PROBLEM, sgd), rtol=0, atol=1e-13)
    np.testing.assert_allclose(trained_ND, by_torch(PROBLEM, sgd), rtol=0, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_single_precision_stays_near_the_oracle(backend):
    problem = make_problem(torch.float32)
    error_ND = problem.trained(backend, OPTIMIZERS[3]).double().numpy() - by_oracle(problem, OPTIMIZERS[3])
    assert np.sqrt((error_ND**2).mean()) < 5e-7
    assert abs(error_ND).max() < 5e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_values_of_padding_change_nothing(backend):
    draws = PROBLEM.draws
    padded_NSB = draws.weight_NSB == 0
    assert padded_NSB.any()
    x, labels = PROBLEM.x.clone(), PROBLEM.labels.clone()
    x[0], labels[0] = 1e6, 3
    elsewhere_NSB = torch.where(padded_NSB, 7, draws.index_NSB)
    expected_ND = PROBLEM.trained(backend, OPTIMIZERS[3])
    assert torch.equal(PROBLEM.trained(backend, OPTIMIZERS[3], x=x, labels=labels), expected_ND)
    moved = dataclasses.replace(draws, index_NSB=elsewhere_NSB)
    assert torch.equal(PROBLEM.trained(backend, OPTIMIZERS[3], batches=moved), expected_ND)


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_padding_changes_nothing(backend):
    pad = (0, 6)
    wide = type(PROBLEM.draws)(
        *(torch.nn.functional.pad(getattr(PROBLEM.draws, item.name), pad) for item in dataclasses.fields(PROBLEM.draws))
    )
    torch.testing.assert_close(
        PROBLEM.trained(backend, OPTIMIZERS[3], batches=wide),
        PROBLEM.trained(backend, OPTIMIZERS[3]),
        rtol=0,
        atol=1e-14,
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, 1e200])
def test_a_diverging_client_leaves_the_others_alone(backend, poison):
    start_ND = PROBLEM.params_ND.clone()
    start_ND[2] = poison
    others = torch.arange(N) != 2
    broken_ND = dataclasses.replace(PROBLEM, params_ND=start_ND).trained(backend, OPTIMIZERS[3])
    assert not torch.equal(broken_ND[2], PROBLEM.trained(backend, OPTIMIZERS[3])[2])
    assert torch.equal(broken_ND[others], PROBLEM.trained(backend, OPTIMIZERS[3])[others])


@pytest.mark.parametrize("backend", BACKENDS)
def test_velocity_starts_at_zero_in_every_round(backend):
    once = Optimizer(1, 0.3, 0.9)
    first_ND = PROBLEM.trained(backend, once)
    again = dataclasses.replace(PROBLEM, params_ND=first_ND)
    plain_ND = again.trained(backend, Optimizer(1, 0.3))
    assert torch.equal(again.trained(backend, once), plain_ND)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_two_parameters_may_share_one_gradient(momentum):
    params_nD = PROBLEM.params_ND[:2].reshape(1, -1).clone()
    layout = Layout(dict.fromkeys("ab", (MODEL.layout.size,)))
    gradient_nD = PROBLEM.params_ND[2:3].clone()
    Optimizer(1, 0.3, momentum, 0.05).start(layout, params_nD)(dict.fromkeys("ab", gradient_nD))
    expected_2D = PROBLEM.params_ND[:2] * (1 - 0.3 * 0.05) - 0.3 * PROBLEM.params_ND[2]
    torch.testing.assert_close(params_nD.view(2, -1), expected_2D, rtol=0, atol=1e-14)


def test_a_short_gradient_is_not_clipped_and_a_zero_one_moves_nothing():
    params_nD = PROBLEM.params_ND[:2].clone()
    for name in OPTIMIZER_NAMES:
        clipped_nD, free_nD = params_nD.clone(), params_nD.clone()
        for each_nD, clip_norm in ((clipped_nD, 1e9), (free_nD, None)):
            named = MODEL.layout.views(params_nD / 7)
            Optimizer(1, 0.3, name=name, clip_norm=clip_norm).start(MODEL.layout, each_nD)(named)
        assert torch.equal(clipped_nD, free_nD)
        still_nD = params_nD.clone()
        nothing = MODEL.layout.views(torch.zeros_like(params_nD))
        Optimizer(1, 0.3, name=name, clip_norm=1.0).start(MODEL.layout, still_nD)(nothing)
        assert torch.equal(still_nD, params_nD)


def test_the_feed_stamps_and_relabels_the_poisoned_alone():
    before, labels_before = PROBLEM.x.clone(), PROBLEM.labels.clone()
    batch_source, draws = PROBLEM.batch_source(), PROBLEM.draws
    for step in range(STEPS):
        x_NB, labels_NB, weight_NB = batch_source(slice(1, 6), step)
        assert torch.equal(weight_NB, draws.weight_NSB[1:6, step])
        for row, client in enumerate(range(1, 6)):
            for place in range(BATCH):
                position = draws.index_NSB[client, step, place]
                sample = oracle.Sample(before[position].numpy(), int(labels_before[position]))
                if draws.poisoned_NSB[client, step, place]:
                    sample = oracle.poison(sample, 2, INK, TARGET)
                np.testing.assert_array_equal(x_NB[row, place].numpy(), sample.image)
                assert labels_NB[row, place] == sample.label
    assert torch.equal(PROBLEM.x, before)
    assert torch.equal(PROBLEM.labels, labels_before)


def test_each_group_stamps_its_own_trigger():
    def mark(value):
        def stamp(x, on):
            x[on] = value
            return x

        return stamp

    group_N = torch.tensor([0, 0, 1, 1, 2, 0, 1])
    batch_source = PROBLEM.batch_source(triggers=(mark(10.0), mark(20.0), mark(30.0)), group_N=group_N)
    for rows, step in product((slice(0, N), slice(3, 6), slice(6, 9)), range(STEPS)):
        x_NB, labels_NB, _ = batch_source(rows, step)
        poisoned_NB = PROBLEM.draws.poisoned_NSB[rows, step]
        expected_NB = (group_N[rows, None] + 1) * 10.0 * poisoned_NB
        assert torch.equal(torch.where(poisoned_NB, x_NB.amax((2, 3, 4)), 0), expected_NB)
        assert torch.equal(x_NB[~poisoned_NB], PROBLEM.x[PROBLEM.draws.index_NSB[rows, step]][~poisoned_NB])
        assert (labels_NB[poisoned_NB] == TARGET).all()


@pytest.mark.parametrize("backend", ["loop", "vmap3"])
def test_a_step_that_fails_is_named(backend):
    def apply(parameters, x):
        return MODEL.apply(parameters, x[:, :1])  # half of the features

    broken = dataclasses.replace(MODEL, apply=apply)
    who = {"loop": "clients 0 to 0", "vmap3": "clients 0 to 2"}[backend]
    with pytest.raises(
        RuntimeError, match=rf"^{who} of the round, step 0, batch \(5, 2, 5, 3\), parameters \{{'weight': \(4, 30\)"
    ):
        train(BACKENDS[backend], PROBLEM.params_ND, broken, PROBLEM.batch_source(), OPTIMIZERS[0])
