"""A workload as a federation of the engine, with the data that the peers train on."""

from dataclasses import replace

import numpy as np
import torch

from benchmarks.speed.workloads import Workload, make_data
from rflbat.attacks.base import SampleFormat
from rflbat.attacks.registry import make_attack
from rflbat.clients.backend import choose_backend
from rflbat.data.registry import default_attack
from rflbat.defenses.registry import make_defense
from rflbat.experiment.config import Experiment
from rflbat.models.registry import MODELS
from rflbat.round.state import Federation

MODEL = {"W1": ("mnist", "logistic"), "W2": ("femnist", "cnn"), "W3": ("amazon", "lstm")}
"""The paper's data set, which names the attack, and its model."""
NEVER = 10**9


def make_federation(
    workload: Workload, *, backend: str = "auto", defense: str = "fedavg", malicious: float = 0.0, tests: int = 0
) -> Federation:
    """Build the federation of a workload; only its data differ from a federation of ``rflbat run``.

    Args:
        workload: what is trained.
        backend: back end of rflbat.
        defense: defense of rflbat, with its defaults.
        malicious: share of malicious clients.
        tests: number of test samples; every round is evaluated if it is positive, none otherwise.

    Returns:
        the federation, on the CPU.

    Raises:
        UserError: the model has no such back end.

    Example:
        >>> from benchmarks.speed.workloads import WORKLOADS
        >>> federation = make_federation(replace(WORKLOADS["W1"], clients=2))
        >>> len(federation.client_indices), tuple(federation.train_x.shape), federation.model.layout.size
        (2, (1200, 1, 28, 28), 7850)
    """
    dataset, name = MODEL[workload.name]
    shape = (1, 28, 28) if workload.shape == (784,) else workload.shape
    experiment = Experiment(
        **{"dataset": dataset, "model": name, "backend": backend, "defense": defense, "malicious": malicious},
        **{"clients": workload.clients, "participants": workload.clients, "lr": workload.lr, "device": "cpu"},
        **{"local_steps": workload.steps, "batch_size": workload.batch, "attack": default_attack(dataset)},
        **{"rounds": NEVER, "eval_every": 1 if tests else NEVER},
    )
    train_x, train_y = _tensors(workload, shape, 0)
    if tests:
        test_x, test_y = _tensors(replace(workload, clients=1, samples=tests), shape, 1)
    else:
        test_x, test_y = train_x[:0], train_y[:0]
    model = MODELS[name](shape, workload.classes, workload.words)
    device = torch.device("cpu")
    return Federation(
        **{"experiment": experiment, "train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y},
        client_indices=np.split(np.arange(workload.clients * workload.samples), workload.clients),
        model=model,
        attack=make_attack(
            str(experiment.attack), SampleFormat(shape, 1.0, _encode if workload.words else None), 1.0, {}
        ),
        defense=make_defense(defense, {}),
        backend=choose_backend(backend, None, model, train_x[0].to("meta"), workload.batch, workload.clients, device),
        device=device,
        host_texts=(train_x, train_y) if workload.words else None,
    )


def _encode(text: str) -> list[int]:
    """Number the words in their order: the texts are random, so the ids have no meaning."""
    return list(range(1, 1 + len(text.split())))


def _tensors(workload: Workload, shape: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = make_data(workload, seed)
    return torch.from_numpy(x).view(-1, *shape), torch.from_numpy(y).view(-1)
