"""One round as a straight line: sample, batch, poison, train, tamper, defend, apply, measure.

It reads like algorithm 1 of the paper. Axes: N clients of the round, D parameters.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rflbat.attacks.base import Attack
from rflbat.clients.backend import Backend
from rflbat.clients.batches import draw_batches
from rflbat.clients.executor import same_start
from rflbat.clients.step import SGD, make_feed
from rflbat.config import Experiment
from rflbat.defenses.base import Decision, Defense, Updates
from rflbat.evaluation import evaluate
from rflbat.models.base import Model
from rflbat.randomness import generator, uniforms
from rflbat.shadows import Glance, glance
from rflbat_kernels import finite_rows


@dataclass(frozen=True)
class World:
    """All that no round changes.

    Args:
        experiment: the resolved configuration.
        train_x: training samples as floats, resident on the device; ``train_y`` their labels.
        test_x: test samples as floats, on the device; ``test_y`` their labels.
        samples: per client of the federation, the positions of its training samples.
        model: functional model.
        attack: triggers and tampering.
        defense: pure functions.
        backend: how clients are trained.
        device: where all tensors lie.
        shadows: defenses that look on.
        held_out: positions of the training samples that no client has, for a defense that learns from them.
        words: vocabulary of texts, position = token id; None for images.
    """

    experiment: Experiment
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    samples: list[np.ndarray]
    model: Model
    attack: Attack
    defense: Defense
    backend: Backend
    device: torch.device
    shadows: tuple[Defense, ...] = ()
    held_out: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    words: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Server:
    """All that a round changes: this, and nothing else, is a checkpoint.

    Args:
        round_number: next round, from 0.
        params_D: global parameters.
        defense_state: the defense's memory.
        shadow_states: the memories of the defenses that look on.
    """

    round_number: int
    params_D: Tensor
    defense_state: Any
    shadow_states: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What happened in a round.

    Args:
        round_number: which one.
        clients_N: ids of its clients.
        malicious_N: who of them attacked.
        decision: the defense's decision.
        measures: as ``evaluation.evaluate``, or None in a round that was not evaluated.
        shadows: what the defenses that look on would have done.
        chunk: clients that were trained at a time; less than was planned where memory ran out.
    """

    round_number: int
    clients_N: np.ndarray
    malicious_N: np.ndarray
    decision: Decision
    measures: Tensor | None
    shadows: tuple[Glance, ...] = ()
    chunk: int = 1


def draw_clients(experiment: Experiment, round_number: int) -> np.ndarray:
    """Draw who takes part in a round, in ascending order of ids.

    Args:
        experiment: configuration.
        round_number: round, from 0.

    Returns:
        ids ``(N,)``.
    """
    everybody = np.arange(experiment.clients)
    if experiment.participants in (None, experiment.clients):
        return everybody
    stream = generator(experiment.seed, "participants", round_number)
    return np.sort(stream.choice(everybody, experiment.participants, replace=False))


def draw_roles(experiment: Experiment, round_number: int, clients_N: np.ndarray) -> np.ndarray:
    """Draw who of the round's clients attacks.

    ``redrawn``: the nearest number to the malicious share of the round's clients, drawn anew each round.
    ``fixed``: that share of all clients, drawn once. Nobody attacks before ``attack_start``.

    Args:
        experiment: configuration.
        round_number: round, from 0.
        clients_N: ids of the round's clients.

    Returns:
        bool ``(N,)``.
    """
    if round_number < experiment.attack_start:
        return np.zeros(len(clients_N), bool)
    fixed = experiment.roles == "fixed"
    pool = np.arange(experiment.clients) if fixed else clients_N
    count = int(experiment.malicious * len(pool) + 0.5)
    stream = generator(experiment.seed, "roles", 0 if fixed else round_number)
    return np.isin(clients_N, stream.choice(pool, count, replace=False))


def move(params_D: Tensor, update_D: Tensor, server_lr: float) -> Tensor:
    """Move the global model by a decision, unless the move would make it non-finite.

    Args:
        params_D: global parameters.
        update_D: the decision's update.
        server_lr: factor of the update.

    Returns:
        the new global parameters.
    """
    moved_D = torch.add(params_D, update_D, alpha=server_lr)
    return torch.where(moved_D.isfinite().all(), moved_D, params_D)


def _measure(world: World, params_D: Tensor) -> Tensor:
    return evaluate(world.model, params_D, world.test_x, world.test_y, world.attack, world.experiment.target)


@torch.no_grad()
def run_round(world: World, server: Server) -> tuple[Server, Outcome]:
    """Run one round of federated learning under attack and defense.

    Args:
        world: what no round changes.
        server: the global model and the defense's memory before the round; not modified.

    Returns:
        the server after the round, and what happened. Nothing has waited for the device.

    Source: Wang et al. 2022, algorithm 1.
    """
    experiment, attack, number = world.experiment, world.attack, server.round_number

    clients_N = draw_clients(experiment, number)
    malicious_N = draw_roles(experiment, number, clients_N)
    samples = [world.samples[client] for client in clients_N]
    malicious = torch.from_numpy(malicious_N).to(world.device)

    batches = draw_batches(
        samples,
        malicious_N,
        generator(experiment.seed, "batches", number),
        steps=experiment.local_steps,
        batch=experiment.batch_size,
        poisoned_share=attack.poisoned_share,
    ).to(world.device)
    group_N = (malicious.cumsum(0) - 1) % len(attack.local_triggers)
    feed = make_feed(world.train_x, world.train_y, batches, attack.local_triggers, group_N, experiment.target)

    sgd = SGD(experiment.local_steps, experiment.lr, experiment.momentum, experiment.weight_decay)
    updates_ND = server.params_D.new_empty(len(clients_N), len(server.params_D))
    chunk = world.backend.train(updates_ND, same_start(server.params_D), world.model, feed, sgd)
    updates_ND = attack.tamper(updates_ND, malicious)

    updates = Updates(
        matrix_ND=updates_ND,
        sizes_N=torch.tensor([len(own) for own in samples], dtype=torch.float64, device=world.device),
        client_ids_N=torch.from_numpy(clients_N).to(world.device),
        valid_N=finite_rows(updates_ND),
        malicious_count=malicious.sum(),
    )
    draw = uniforms(experiment.seed, "defense", number, world.device)
    decision = world.defense.apply(updates, server.defense_state, draw)
    shadows = glance(world.shadows, server.shadow_states, updates, experiment.seed, number)

    params_D = move(server.params_D, decision.update, experiment.server_lr)
    measures = None
    if (number + 1) % experiment.eval_every == 0 or number + 1 == experiment.rounds:
        measures = _measure(world, params_D)
        shadows = [
            replace(each, measures=_measure(world, move(server.params_D, each.decision.update, experiment.server_lr)))
            for each in shadows
        ]
    after = Server(number + 1, params_D, decision.state, tuple(each.decision.state for each in shadows))
    return after, Outcome(number, clients_N, malicious_N, decision, measures, tuple(shadows), chunk)
