"""Local training of the deep models under a distributed attack: the back ends against plain torch.nn and torch.optim.

Legend of the suffixes: N clients, D parameters, S local steps, B batch.
"""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from rflbat.attacks.base import SampleFormat
from rflbat.attacks.registry import make_attack
from rflbat.clients.batches import Batches, draw_batches
from rflbat.clients.step import make_batch_source
from rflbat.models.cnn import cnn
from rflbat.models.lstm import lstm
from rflbat.randomness import generator
from rflbat.testing.formats import encode
from tests.engine.attacks.formats import inserted
from tests.engine.clients.training import back_ends, optimizers, told, torch_steps, train
from tests.engine.models.inputs import random_samples
from tests.engine.models.plain import PlainLSTM, plain_cnn, with_parameters

IMAGE, TEXT, VOCABULARY, CLASSES, TARGET = (2, 6, 10), (9,), 23, 4, 1
SENTENCE = "so good, I want to eat"  # 7 tokens: parts of 1, 2, 2 and 2
MODELS = {"cnn": cnn(IMAGE, CLASSES), "lstm": lstm(TEXT, CLASSES, VOCABULARY)}
ATTACKS = {
    "cnn": make_attack("dba", SampleFormat(IMAGE, 1.5), 1.0, {}),
    "lstm": make_attack("dba", SampleFormat(TEXT, 0.0, encode), 1.0, {"text": SENTENCE}),
}
SIZES = (1, 2, 7, 5, 13)  # with batches of 4: padded always, short last batches, full ones
MALICIOUS_N = np.array([False, True, True, False, True])
GROUPS = (0, 3, 1, 2, 0)
BATCH, STEPS, N = 4, 4, len(SIZES)
OPTIMIZERS = optimizers(STEPS, 0.1)
BACKENDS = back_ends(N, analytic=False)

every_model = pytest.mark.parametrize("name", MODELS)
every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_optimizer = pytest.mark.parametrize("sgd", OPTIMIZERS, ids=told)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A training set, the plan of a round and the start vectors, which differ between clients."""

    name: str
    x: torch.Tensor
    labels: torch.Tensor
    draws: Batches
    params_ND: torch.Tensor

    def trained(self, backend, sgd):
        batch_source = make_batch_source(
            self.x, self.labels, self.draws, ATTACKS[self.name].local_triggers, torch.tensor(GROUPS), TARGET
        )
        return train(BACKENDS[backend], self.params_ND, MODELS[self.name], batch_source, sgd)


@functools.cache
def problem(name, dtype=torch.float64):
    words = VOCABULARY if name == "lstm" else 0
    x = random_samples(TEXT if words else IMAGE, words, sum(SIZES) + 1)
    if words:
        for row in range(len(x)):
            x[row, : row % (TEXT[0] + 1)] = 0  # texts of every length, in front of each the padding
    owner = np.repeat(np.arange(N), SIZES)
    samples = [np.flatnonzero(owner == client) + 1 for client in range(N)]
    draws = draw_batches(samples, MALICIOUS_N, generator(0, "plan"), steps=STEPS, batch=BATCH, poison_fraction=0.5)
    params_ND = torch.stack([MODELS[name].init(generator(client, "model")) for client in range(N)]).to(dtype)
    labels = torch.from_numpy(generator(0, "labels").integers(0, CLASSES, len(x)))
    return Problem(name, x if words else x.to(dtype), labels, draws, params_ND)


def poisoned(sample, group):
    """A copy that carries the group's part of the trigger, spelled out."""
    if len(sample.shape) == 1:
        return torch.tensor(inserted(sample.tolist(), [[5], [6, 7], [8, 9], [10, 11]][group]))
    sample = sample.clone()
    for channel in range(2):
        for column in range(4):
            sample[channel, 2 if group < 2 else 5, column + (0 if group in (0, 2) else 6)] = 1.5
    return sample


@functools.cache
def by_torch(problem, sgd):
    """Plain modules and torch.optim on batches without padding: share no line with the engine's training."""
    rows = []
    for client in range(N):
        dtype = problem.params_ND.dtype
        plain = PlainLSTM(VOCABULARY, CLASSES, dtype=dtype) if problem.name == "lstm" else None
        module = with_parameters(plain or plain_cnn(IMAGE, CLASSES, dtype=dtype), problem.params_ND[client])
        take_step = torch_steps(module, sgd)
        for step in range(STEPS):
            x, labels = [], []
            for place in range(int(problem.draws.weight_NSB[client, step].sum())):
                position = problem.draws.index_NSB[client, step, place]
                bad = bool(problem.draws.poisoned_NSB[client, step, place])
                x.append(poisoned(problem.x[position], GROUPS[client]) if bad else problem.x[position])
                labels.append(TARGET if bad else int(problem.labels[position]))
            take_step(torch.nn.functional.cross_entropy(module(torch.stack(x)), torch.tensor(labels)))
        rows.append(torch.nn.utils.parameters_to_vector(module.parameters()).detach())
    return torch.stack(rows)


@every_model
def test_the_problem_has_all_that_can_go_wrong(name):
    draws = problem(name).draws
    assert (draws.weight_NSB == 0).any()
    assert draws.poisoned_NSB.any((1, 2)).tolist() == MALICIOUS_N.tolist()
    assert len({GROUPS[client] for client in np.flatnonzero(MALICIOUS_N)}) == 3
    moved_ND = by_torch(problem(name), OPTIMIZERS[3]) - problem(name).params_ND
    assert (moved_ND.abs().amax(1) > 1e-2).all()


@every_model
@every_backend
@every_optimizer
def test_back_ends_equal_plain_torch(name, backend, sgd):
    trained_ND = problem(name).trained(backend, sgd)
    torch.testing.assert_close(trained_ND, by_torch(problem(name), sgd), rtol=0, atol=1e-12)


@every_model
@every_backend
def test_single_precision_stays_near_plain_torch(name, backend):
    given = problem(name, torch.float32)
    trained_ND = given.trained(backend, OPTIMIZERS[3])
    assert trained_ND.dtype == torch.float32
    error_ND = trained_ND - by_torch(given, OPTIMIZERS[3])
    assert error_ND.square().mean().sqrt() < 1e-7
    assert error_ND.abs().max() < 2e-6


@every_model
@every_backend
def test_the_values_of_padding_change_nothing(name, backend):
    given = problem(name)
    x, labels = given.x.clone(), given.labels.clone()
    x[0], labels[0] = 7, (labels[0] + 1) % CLASSES  # padding points there, no sample does
    expected_ND = given.trained(backend, OPTIMIZERS[3])
    assert torch.equal(dataclasses.replace(given, x=x, labels=labels).trained(backend, OPTIMIZERS[3]), expected_ND)
    elsewhere_NSB = torch.where(given.draws.weight_NSB == 0, 7, given.draws.index_NSB)
    moved = dataclasses.replace(given.draws, index_NSB=elsewhere_NSB)
    assert torch.equal(dataclasses.replace(given, draws=moved).trained(backend, OPTIMIZERS[3]), expected_ND)


@every_model
@every_backend
def test_more_padding_changes_nothing(name, backend):
    given = problem(name)
    wide = Batches(
        *(
            torch.nn.functional.pad(each, (0, 3))
            for each in (given.draws.index_NSB, given.draws.weight_NSB, given.draws.poisoned_NSB)
        )
    )
    padded_ND = dataclasses.replace(given, draws=wide).trained(backend, OPTIMIZERS[3])
    torch.testing.assert_close(padded_ND, given.trained(backend, OPTIMIZERS[3]), rtol=0, atol=1e-13)


@every_model
def test_the_chunk_changes_nothing(name):
    whole_ND, *cut_ND = (problem(name).trained(f"vmap{chunk}", OPTIMIZERS[3]) for chunk in (N + 4, 3, 1))
    for each_ND in cut_ND:
        torch.testing.assert_close(each_ND, whole_ND, rtol=0, atol=1e-13)


@every_model
@every_backend
def test_a_diverging_client_leaves_the_others_alone(name, backend):
    given = problem(name)
    start_ND = given.params_ND.clone()
    start_ND[2] = torch.nan
    others = torch.arange(N) != 2
    broken_ND = dataclasses.replace(given, params_ND=start_ND).trained(backend, OPTIMIZERS[3])
    assert broken_ND[2].isnan().all()
    assert torch.equal(broken_ND[others], given.trained(backend, OPTIMIZERS[3])[others])
