"""Small federations on any device, the fake one included: each model with each attack that suits it, any defenses.

Axes: N clients of the round, D parameters, n samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

from rflbat.attacks.base import SampleFormat
from rflbat.attacks.registry import ATTACKS, make_attack
from rflbat.clients.backend import Backend
from rflbat.clients.row_sparse import row_sparse
from rflbat.defenses.registry import make_defense
from rflbat.errors import UserError
from rflbat.experiment.config import Experiment
from rflbat.models.base import Model
from rflbat.models.registry import MODELS, make_model
from rflbat.randomness import generator
from rflbat.round.evaluation import BATCH
from rflbat.round.setup import make_shadows
from rflbat.round.state import Federation
from rflbat.testing.formats import encode

CLASSES, CLIENTS, TRAINING, TWO_BATCHES = 5, 13, 91, BATCH + 1
WORDS = 997
"""More than the texts of one client hold, so that row-sparse updates leave some out."""
IMAGES, TEXTS = SampleFormat((1, 12, 12), 1.0), SampleFormat((17,), 0.0, encode)


def format_of(model: str) -> SampleFormat:
    """Images, or texts for a model that refuses images."""
    try:
        make_model(model, IMAGES.shape, CLASSES)
    except UserError:
        return TEXTS
    return IMAGES


FORMATS = {model: format_of(model) for model in MODELS}
"""Sample format of each model."""


def pairs() -> list[tuple[str, str]]:
    """Every functional model with every attack that suits its samples, and a model of a module with one of them."""
    found = []
    for model in MODELS:
        of_module = MODELS[model](FORMATS[model].shape, CLASSES, words_of(model)).train_apply is not None
        for attack in ATTACKS:
            try:
                make_attack(attack, FORMATS[model], 1.0, {})
            except UserError:
                continue
            found.append((model, attack))
            if of_module:
                break
    return found


def back_ends(model: str) -> list[str]:
    """Back ends that ``auto`` can choose for a model on a device."""
    written_out = MODELS[model](FORMATS[model].shape, CLASSES, words_of(model)).gradient is not None
    return ["vmap", "analytic"] if written_out else ["vmap"]


def words_of(model: str) -> int:
    return WORDS if FORMATS[model].encode else 0


def make_anywhere(name: str) -> Model:
    """Make a model; under fake tensors, where a module cannot be built, outside of them and without its values."""
    with unset_fake_temporarily():
        made = MODELS[name](FORMATS[name].shape, CLASSES, words_of(name))
        # A module copies itself when it is first used.
        x = torch.zeros(2, *FORMATS[name].shape, dtype=torch.int64 if words_of(name) else torch.float32)
        named = {**made.layout.views(torch.zeros(made.layout.size)), **made.constants}
        made.apply(named, x)
        if made.train_apply is not None:
            made.train_apply(named, x, torch.ones(2), torch.tensor(0))
    if not isinstance(torch.empty(1), FakeTensor):
        return made
    constants = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in made.constants.items()}
    return replace(made, init=lambda stream: torch.zeros(made.layout.size), constants=constants)


@dataclass(frozen=True)
class Gathering:
    """A back end that does all but the gradients: gathers and stamps every batch, and writes the updates."""

    chunk: int = 5

    def train(self, updates_ND, start, model, feed, sgd):
        for first in range(0, len(updates_ND), self.chunk):
            rows = slice(first, min(first + self.chunk, len(updates_ND)))
            start_nD = start(rows)
            for step in range(sgd.steps):
                x_nB, labels_nB, weight_nB = feed(rows, step)
                share_n = (labels_nB * weight_nB).sum(1) + x_nB.flatten(1).sum(1)
                updates_ND[rows] = start_nD + share_n[:, None]
        return self.chunk


def small_federation(
    model: str,
    attack: str,
    *,
    defense: str = "fedavg",
    defense_args: Mapping[str, Any] | None = None,
    shadow: str = "",
    backend: Any = None,
    device: str = "cpu",
    tested: int = TWO_BATCHES,
) -> Federation:
    """Make a federation of random samples; under fake tensors too, where it has no values."""
    shape, words = FORMATS[model].shape, words_of(model)
    made = make_anywhere(model)
    stream = generator(0, "samples")

    def samples(count):
        drawn = stream.integers(0, words, (count, *shape)) if words else stream.random((count, *shape), np.float32)
        return torch.from_numpy(drawn).to(device)

    def labels(count):
        return torch.from_numpy(stream.integers(0, CLASSES, count)).to(device)

    experiment = Experiment(
        clients=CLIENTS, rounds=3, local_steps=2, batch_size=7, malicious=0.4, target=1, momentum=0.9, shadow=shadow
    )
    return Federation(
        experiment=experiment,
        train_x=samples(TRAINING),
        train_y=labels(TRAINING),
        test_x=samples(tested),
        test_y=labels(tested),
        client_indices=np.array_split(np.arange(TRAINING), CLIENTS),
        model=made.to(device),
        attack=make_attack(attack, replace(FORMATS[model], device=device), 100.0, {}),
        defense=(made_defense := make_defense(defense, defense_args or {})),
        backend=backend or Backend("vmap", 5, 1, ""),
        device=torch.device(device),
        shadows=make_shadows(experiment),
        # The samples are the clients' too, which no test of a round minds.
        root_indices=np.arange(10 if "root_update" in made_defense.needs else 0),
    )


def is_row_sparse(federation: Federation) -> bool:
    """Whether a run of its model and attack trains only the embedding rows that the texts touch."""
    optimizers, needs = federation.experiment.optimizers, federation.needs
    return row_sparse(federation.model, optimizers, federation.attack, needs=needs)[0]
