"""One round as a straight line: sample, batch, poison, train, tamper, defend, apply, measure.

It reads like algorithm 1 of the paper. Axes: N clients of the round, D parameters, Q of them that are trained and sent.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rflbat.attacks.base import Attack
from rflbat.clients.backend import Backend
from rflbat.clients.exchange import train_columns
from rflbat.clients.executor import same_start
from rflbat.clients.step import Feed, make_feed
from rflbat.clients.tables import Work, on_rows, touched_rows
from rflbat.config import Experiment
from rflbat.defenses.base import Decision, Defense, Updates
from rflbat.evaluation import evaluate
from rflbat.models.base import Model
from rflbat.plan import Plan, draw_plan
from rflbat.randomness import dealer
from rflbat.ranks import ALONE, Ranks
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
        texts: training texts and their labels on the host, where each round looks up which rows of the model's table
            its clients touch; None where all parameters are trained and sent.
        ranks: this process among those that run the simulation; each has all of the above, but not all updates.
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
    texts: tuple[Tensor, Tensor] | None = None
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class Server:
    """All that a round changes: this, and nothing else, is a checkpoint.

    Args:
        round_number: next round, from 0.
        params_D: global parameters.
        defense_state: the defense's memory; of what it has by column, this rank's.
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
        discarded: 0-dim bool, the server left the model as it was, because the move would have made it non-finite.
        measures: as ``evaluation.evaluate``, or None in a round that was not evaluated.
        shadows: what the defenses that look on would have done.
        chunk: clients that were trained at a time; less than the back end's where memory ran out.
    """

    round_number: int
    clients_N: np.ndarray
    malicious_N: np.ndarray
    decision: Decision
    discarded: Tensor
    measures: Tensor | None
    shadows: tuple[Glance, ...] = ()
    chunk: int = 1


def move(params_D: Tensor, update_D: Tensor, server_lr: float) -> tuple[Tensor, Tensor]:
    """Move the global model by a decision, unless the move would make it non-finite.

    Args:
        params_D: global parameters.
        update_D: the decision's update.
        server_lr: factor of the update.

    Returns:
        the new global parameters, and whether the move was discarded (0-dim bool).
    """
    moved_D = torch.add(params_D, update_D, alpha=server_lr)
    # One read and no copy: a NaN or an infinity anywhere is the smallest or the largest entry.
    discarded = ~torch.stack(torch.aminmax(moved_D)).isfinite().all()
    return torch.where(discarded, params_D, moved_D, out=moved_D), discarded


def _feed(world: World, x: Tensor, labels: Tensor, plan: Plan) -> Feed:
    """Give the batches of a plan, on the device where it and the samples are."""
    triggers = world.attack.local_triggers
    group_N = (plan.malicious_N.cumsum(0) - 1) % len(triggers)
    # The host drew who attacks: where nobody does, no trigger is laid on any batch.
    laid = triggers if plan.malicious.any() else ()
    return make_feed(x, labels, plan.batches, laid, group_N, world.experiment.target)


def _measure(world: World, params_D: Tensor) -> Tensor:
    target = world.experiment.target
    return evaluate(world.model, params_D, world.test_x, world.test_y, world.attack, target, world.ranks)


def _moved(world: World, server: Server, decision: Decision) -> tuple[Tensor, Tensor]:
    """Move the global model by a decision, whose update lies by the columns of the ranks."""
    update_D = world.ranks.gather(decision.update, len(server.params_D))
    return move(server.params_D, update_D, world.experiment.server_lr)


@torch.no_grad()
def run_round(world: World, server: Server) -> tuple[Server, Outcome]:
    """Run one round of federated learning under attack and defense.

    All draws are made on the host and go to the device in one copy; then the host only queues work. It waits when
    ``records.download`` brings back what happened, in one copy again.

    Args:
        world: what no round changes.
        server: the global model and the defense's memory before the round; not modified.

    Returns:
        the server after the round, and what happened, on the device.

    Raises:
        UserError: see ``Backend.train``.

    Source: Wang et al. 2022, algorithm 1.
    """
    experiment, defenses = world.experiment, (world.defense, *world.shadows)
    clients = experiment.participants or experiment.clients
    uniforms = max(defense.uniforms(clients, len(server.params_D)) for defense in defenses)
    plan = draw_plan(experiment, server.round_number, world.samples, world.attack.poisoned_share, uniforms)
    if world.texts is not None:
        table = touched_rows(world.model, _feed(world, *world.texts, plan), clients, experiment.local_steps)
        plan = replace(plan, table=table)
    return play(world, server, plan.to(world.device))


@torch.no_grad()
def play(world: World, server: Server, plan: Plan) -> tuple[Server, Outcome]:
    """Play a round that is drawn: batch, poison, train, tamper, defend, apply, measure. No value is looked at.

    Nothing here waits for the device or copies to or from it, so on CUDA it can be captured as a graph. Over several
    ranks each trains some of the clients, has its columns of all updates where they are tampered with and defended
    against, and measures on a part of the test set.

    Args:
        world: what no round changes.
        server: before the round; not modified.
        plan: the round's draws, on the device.

    Returns:
        as ``run_round``.
    """
    experiment, attack, number = world.experiment, world.attack, plan.round_number

    feed = _feed(world, world.train_x, world.train_y, plan)
    work = Work(world.model, same_start(server.params_D), feed)
    if plan.table is not None:
        work = on_rows(work, plan.table)

    optimizer = experiment.client_optimizer
    updates_NQ, chunk = train_columns(world.backend, work, server.params_D, optimizer, len(plan.clients), world.ranks)

    with world.ranks.sharing(len(server.params_D)):
        updates_NQ = attack.tamper(updates_NQ, plan.malicious_N)
        updates = Updates(
            sent=work.sent(updates_NQ),
            sizes_N=plan.sizes_N,
            client_ids_N=plan.client_ids_N,
            valid_N=finite_rows(updates_NQ),
            malicious_count=plan.malicious_N.sum(),
        )
        decision = world.defense.apply(updates, server.defense_state, dealer(plan.uniforms_U))
        shadows = glance(world.shadows, server.shadow_states, updates, plan.uniforms_U)

    params_D, discarded = _moved(world, server, decision)
    measures = None
    if (number + 1) % experiment.eval_every == 0 or number + 1 == experiment.rounds:
        measures = _measure(world, params_D)
        moves = [_moved(world, server, each.decision) for each in shadows]
        shadows = [
            replace(each, measures=_measure(world, moved_D)) for each, (moved_D, _) in zip(shadows, moves, strict=True)
        ]
    after = Server(number + 1, params_D, decision.state, tuple(each.decision.state for each in shadows))
    return after, Outcome(number, plan.clients, plan.malicious, decision, discarded, measures, tuple(shadows), chunk)
