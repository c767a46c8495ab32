"""One round as straight-line code: sample, batch, poison, train, tamper, defend, apply, measure.

The code follows Algorithm 1 of the RFLBAT paper. Axes: N clients of the round, D parameters, Q of them that a client
trains.
"""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from rflbat.attacks.base import Trigger
from rflbat.attacks.labels import Poison
from rflbat.clients.executor import same_start
from rflbat.clients.row_sparse import LocalTask, on_rows, touched_rows
from rflbat.clients.step import BatchSource, make_batch_source, with_keys
from rflbat.data.augment import by_key
from rflbat.defenses.base import Decision, Updates
from rflbat.randomness import replayed
from rflbat.round.attacker import begin, send
from rflbat.round.carried import next_columns, split_columns
from rflbat.round.draws import RoundDraws, draw_round
from rflbat.round.evaluation import evaluate
from rflbat.round.groups import train_groups
from rflbat.round.needs import server_view, split_root_row, with_root_row
from rflbat.round.shadows import run_shadows
from rflbat.round.state import Federation, RoundOutcome, ServerState
from rflbat_kernels import finite_rows


def apply_update(
    params_D: Tensor, update_D: Tensor, server_lr: float, carried_C: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Add the decision's update to the global model, unless the result would be non-finite.

    Args:
        params_D: global parameters.
        update_D: the decision's update; of the trained columns alone if there is ``carried_C``.
        server_lr: server learning rate, the factor of the update.
        carried_C: carried columns of the new global model.

    Returns:
        the new global parameters, and whether the update was discarded (0-dim bool).
    """
    moved_D = torch.add(params_D[: len(update_D)], update_D, alpha=server_lr)
    if carried_C is not None:
        moved_D = torch.cat([moved_D, carried_C])
    # One pass and no copy: aminmax returns any NaN or infinity in its input.
    discarded = ~torch.stack(torch.aminmax(moved_D)).isfinite().all()
    return torch.where(discarded, params_D, moved_D, out=moved_D), discarded


def _batch_source(
    federation: Federation,
    x: Tensor,
    labels: Tensor,
    draws: RoundDraws,
    poison: Poison | None,
    triggers: tuple[Trigger, ...],
) -> BatchSource:
    """Build the batch source of a round, on the device that holds the draws and the samples."""
    group_N = (draws.malicious_N.cumsum(0) - 1) % len(triggers)
    # The server's own row stamps nothing, so it may be in any group.
    group_N = torch.nn.functional.pad(group_N, (0, len(draws.batches.index_NSB) - len(group_N)))
    # The roles are known on the host, so a round without malicious clients skips all triggers.
    laid = triggers if draws.malicious.any() else ()
    augment = by_key(federation.augmentations, draws.augment_key_N)
    return make_batch_source(x, labels, draws.batches, laid, group_N, federation.experiment.target, poison, augment)


def _measure(federation: Federation, params_D: Tensor, attack_state: Any) -> Tensor:
    local, full = federation.attack.triggers_in(attack_state)
    triggers = (full, *(local if len(local) > 1 else ()))
    return evaluate(federation.model, params_D, federation.measured, triggers, federation.ranks)


def _moved(
    federation: Federation, server: ServerState, decision: Decision, carried_NC: Tensor | None
) -> tuple[Tensor, Tensor, Any]:
    """Apply a decision to the global model; its update is sharded by columns over the ranks."""
    update_D = federation.ranks.gather(decision.update, federation.defense_columns)
    update_D, carried_C = next_columns(federation, server.params_D, update_D, decision, carried_NC)
    lr = federation.experiment.server_lr
    if federation.experiment.server_optimizer == "sgd":  # in one pass, without a step of its own
        return *apply_update(server.params_D, update_D, lr, carried_C), None
    step_D, state = federation.server_optimizer.apply(update_D, server.optimizer_state, lr)
    params_D, discarded = apply_update(server.params_D, step_D, 1.0, carried_C)
    return params_D, discarded, _unless(discarded, state, server.optimizer_state)


def _unless(discarded: Tensor, state: Any, before: Any) -> Any:
    """Return the next state of the server's optimizer, or the former one if the move was discarded."""
    if state is None:
        return None
    kept = {
        item.name: torch.where(discarded, getattr(before, item.name), getattr(state, item.name))
        for item in fields(state)
    }
    return replace(state, **kept)


@torch.no_grad()
def run_round(federation: Federation, server: ServerState) -> tuple[ServerState, RoundOutcome]:
    """Run one round of federated learning under attack and defense.

    All draws are made on the host and copied to the device in a single transfer. From then on the host only queues
    kernels. It waits for the device in ``records.download``, which copies the outcome back, also in a single transfer.

    Args:
        federation: what no round changes.
        server: global model and defense state before the round; not modified.

    Returns:
        the server after the round, and the round's outcome on the device.

    Raises:
        UserError: see ``Backend.train``.

    Source: Wang et al. 2022, Algorithm 1.
    """
    experiment, defenses = federation.experiment, (federation.defense, *federation.shadows)
    clients = experiment.participants or experiment.clients
    uniforms = max(defense.num_uniforms(clients, federation.defense_columns) for defense in defenses)
    # Sample.
    draws = draw_round(
        experiment,
        server.round_number,
        federation.client_indices,
        federation.attack.poison_fraction,
        uniforms,
        federation.model.draws,
        federation.extra_positions,
        lambda malicious: federation.attack.num_uniforms(malicious, federation.defense_columns),
    )
    draws = with_root_row(federation, draws)
    if federation.host_texts is not None:
        # The host finds the touched rows, because their number fixes the shapes of the round.
        touched = touched_rows(
            federation.model,
            _batch_source(
                federation,
                *federation.host_texts,
                draws,
                federation.host_poison,
                federation.attack.local_triggers,
            ),
            clients,
            draws.batches.index_NSB.shape[1],
        )
        draws = replace(draws, touched=touched)
    return run_drawn_round(federation, server, draws.to(federation.device))


@torch.no_grad()
def run_drawn_round(federation: Federation, server: ServerState, draws: RoundDraws) -> tuple[ServerState, RoundOutcome]:
    """Run a round from its draws: batch, poison, train, tamper, defend, apply, measure.

    No step reads a value on the host, waits for the device or copies to or from it, so on CUDA the round can be
    captured as a graph. Each of several ranks trains some of the clients, holds its columns of all updates, on which it
    tampers and defends, and measures on its part of the test set.

    Args:
        federation: what no round changes.
        server: the server before the round; not modified.
        draws: the round's draws, on the device.

    Returns:
        as ``run_round``.
    """
    experiment, number = federation.experiment, draws.round_number

    # Batch and poison: the batch source applies the triggers.
    attack_draw = replayed(draws.attack_uniforms_U)
    attack_state = begin(federation, server, draws, attack_draw)
    triggers, _ = federation.attack.triggers_in(attack_state)
    batch_source = _batch_source(federation, federation.train_x, federation.train_y, draws, federation.poison, triggers)
    task = LocalTask(federation.model, same_start(server.params_D), with_keys(batch_source, draws.key_N))
    if draws.touched is not None:
        task = on_rows(task, draws.touched)

    # Train.
    updates_NQ, chunk = train_groups(federation, task, server.params_D, draws)
    updates_NQ, root_D = split_root_row(updates_NQ, len(draws.clients))

    # Tamper and defend.
    seen_NQ, carried_NC = split_columns(federation, updates_NQ)
    with federation.ranks.sharded_columns(len(server.params_D)):
        seen_NQ = send(federation, server, draws, seen_NQ, attack_draw)
        updates = Updates(
            values=task.values(seen_NQ),
            sizes_N=draws.sizes_N,
            client_ids_N=draws.client_ids_N,
            valid_N=finite_rows(seen_NQ) if carried_NC is None else finite_rows(seen_NQ) & finite_rows(carried_NC),
            malicious_count=draws.malicious_N.sum(),
            server=server_view(federation, server, root_D, carried_NC),
        )
        decision = federation.defense.apply(updates, server.defense_state, replayed(draws.uniforms_U))
        shadows = run_shadows(federation.shadows, server.shadow_states, updates, draws.uniforms_U)

    # Apply.
    params_D, discarded, optimizer_state = _moved(federation, server, decision, carried_NC)

    # Measure.
    measures = None
    if (number + 1) % experiment.eval_every == 0 or number + 1 == experiment.rounds:
        measures = _measure(federation, params_D, attack_state)
        moves = [_moved(federation, server, each.decision, carried_NC) for each in shadows]
        shadows = [
            replace(each, measures=_measure(federation, moved_D, attack_state))
            for each, (moved_D, *_) in zip(shadows, moves, strict=True)
        ]
    after = ServerState(
        number + 1,
        params_D,
        decision.state,
        tuple(each.decision.state for each in shadows),
        server.params_D if "history" in federation.needs else None,
        attack_state,
        optimizer_state,
    )
    return after, RoundOutcome(
        number, draws.clients, draws.malicious, decision, discarded, measures, tuple(shadows), chunk
    )
