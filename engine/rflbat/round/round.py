"""One round as a straight line: sample, batch, poison, train, tamper, defend, apply, measure.

It reads like algorithm 1 of the paper. Axes: N clients of the round, D parameters, Q of them that are trained and sent.
"""

from dataclasses import replace

import torch
from torch import Tensor

from rflbat.clients.executor import same_start
from rflbat.clients.row_sparse import LocalTask, on_rows, touched_rows
from rflbat.clients.sharded import train_sharded
from rflbat.clients.step import BatchSource, make_batch_source
from rflbat.defenses.base import Decision, Updates
from rflbat.randomness import replayed
from rflbat.round.draws import RoundDraws, draw_round
from rflbat.round.evaluation import evaluate
from rflbat.round.shadows import run_shadows
from rflbat.round.state import Federation, RoundOutcome, ServerState
from rflbat_kernels import finite_rows


def apply_update(params_D: Tensor, update_D: Tensor, server_lr: float) -> tuple[Tensor, Tensor]:
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


def _batch_source(federation: Federation, x: Tensor, labels: Tensor, draws: RoundDraws) -> BatchSource:
    """Give the batches of a draws, on the device where it and the samples are."""
    triggers = federation.attack.local_triggers
    group_N = (draws.malicious_N.cumsum(0) - 1) % len(triggers)
    # The host drew who attacks: where nobody does, no trigger is laid on any batch.
    laid = triggers if draws.malicious.any() else ()
    return make_batch_source(x, labels, draws.batches, laid, group_N, federation.experiment.target)


def _measure(federation: Federation, params_D: Tensor) -> Tensor:
    target = federation.experiment.target
    return evaluate(
        federation.model, params_D, federation.test_x, federation.test_y, federation.attack, target, federation.ranks
    )


def _moved(federation: Federation, server: ServerState, decision: Decision) -> tuple[Tensor, Tensor]:
    """Move the global model by a decision, whose update lies by the columns of the ranks."""
    update_D = federation.ranks.gather(decision.update, len(server.params_D))
    return apply_update(server.params_D, update_D, federation.experiment.server_lr)


@torch.no_grad()
def run_round(federation: Federation, server: ServerState) -> tuple[ServerState, RoundOutcome]:
    """Run one round of federated learning under attack and defense.

    All draws are made on the host and go to the device in one copy; then the host only queues task. It waits when
    ``records.download`` brings back what happened, in one copy again.

    Args:
        federation: what no round changes.
        server: the global model and the defense's memory before the round; not modified.

    Returns:
        the server after the round, and what happened, on the device.

    Raises:
        UserError: see ``Backend.train``.

    Source: Wang et al. 2022, algorithm 1.
    """
    experiment, defenses = federation.experiment, (federation.defense, *federation.shadows)
    clients = experiment.participants or experiment.clients
    uniforms = max(defense.num_uniforms(clients, len(server.params_D)) for defense in defenses)
    draws = draw_round(
        experiment, server.round_number, federation.client_indices, federation.attack.poison_fraction, uniforms
    )
    if federation.host_texts is not None:
        table = touched_rows(
            federation.model, _batch_source(federation, *federation.host_texts, draws), clients, experiment.local_steps
        )
        draws = replace(draws, touched=table)
    return run_drawn_round(federation, server, draws.to(federation.device))


@torch.no_grad()
def run_drawn_round(federation: Federation, server: ServerState, draws: RoundDraws) -> tuple[ServerState, RoundOutcome]:
    """Play a round that is drawn: batch, poison, train, tamper, defend, apply, measure. No value is looked at.

    Nothing here waits for the device or copies to or from it, so on CUDA it can be captured as a graph. Over several
    ranks each trains some of the clients, has its columns of all updates where they are tampered with and defended
    against, and measures on a part of the test set.

    Args:
        federation: what no round changes.
        server: before the round; not modified.
        draws: the round's draws, on the device.

    Returns:
        as ``run_round``.
    """
    experiment, attack, number = federation.experiment, federation.attack, draws.round_number

    batch_source = _batch_source(federation, federation.train_x, federation.train_y, draws)
    task = LocalTask(federation.model, same_start(server.params_D), batch_source)
    if draws.touched is not None:
        task = on_rows(task, draws.touched)

    optimizer = experiment.client_optimizer
    updates_NQ, chunk = train_sharded(
        federation.backend, task, server.params_D, optimizer, len(draws.clients), federation.ranks
    )

    with federation.ranks.sharded_columns(len(server.params_D)):
        updates_NQ = attack.tamper(updates_NQ, draws.malicious_N)
        updates = Updates(
            values=task.values(updates_NQ),
            sizes_N=draws.sizes_N,
            client_ids_N=draws.client_ids_N,
            valid_N=finite_rows(updates_NQ),
            malicious_count=draws.malicious_N.sum(),
        )
        decision = federation.defense.apply(updates, server.defense_state, replayed(draws.uniforms_U))
        shadows = run_shadows(federation.shadows, server.shadow_states, updates, draws.uniforms_U)

    params_D, discarded = _moved(federation, server, decision)
    measures = None
    if (number + 1) % experiment.eval_every == 0 or number + 1 == experiment.rounds:
        measures = _measure(federation, params_D)
        moves = [_moved(federation, server, each.decision) for each in shadows]
        shadows = [
            replace(each, measures=_measure(federation, moved_D))
            for each, (moved_D, _) in zip(shadows, moves, strict=True)
        ]
    after = ServerState(number + 1, params_D, decision.state, tuple(each.decision.state for each in shadows))
    return after, RoundOutcome(
        number, draws.clients, draws.malicious, decision, discarded, measures, tuple(shadows), chunk
    )
