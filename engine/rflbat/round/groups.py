"""Local training of a round: groups of clients that train by one program each.

Axes: N clients of the round, G clients of a group, D parameters, W of them on a rank.
"""

from dataclasses import replace

from torch import Tensor

from rflbat.clients.optimizer import Optimizer
from rflbat.clients.row_sparse import LocalTask
from rflbat.clients.sharded import train_sharded
from rflbat.round.draws import Group, RoundDraws
from rflbat.round.state import Federation


def _optimizer(federation: Federation, group: Group, round_number: int) -> Optimizer:
    """Return the optimizer of a group in a round."""
    experiment = federation.experiment
    own = experiment.attack_optimizer if group.malicious else None
    optimizer = own or experiment.client_optimizer
    lr = optimizer.lr * experiment.lr_in(round_number)
    return replace(optimizer, lr=lr, steps=group.steps, ragged=group.ragged)


def _of_group(task: LocalTask, rows_G: Tensor) -> LocalTask:
    """Return the same task with clients counted within a group."""

    def start(rows: slice | Tensor) -> Tensor:
        return task.start(rows_G[rows])

    def batch_source(rows: slice | Tensor, step: int) -> tuple[Tensor, ...]:
        return task.batch_source(rows_G[rows], step)

    return replace(task, start=start, batch_source=batch_source)


def train_groups(federation: Federation, task: LocalTask, params_D: Tensor, draws: RoundDraws) -> tuple[Tensor, int]:
    """Train all clients of a round, group by group.

    The rows of the updates stay in the order of the clients, so that a defense sees no group.

    Args:
        federation: what no round changes.
        task: the local training of all clients.
        params_D: global parameters.
        draws: the draws of the round, on the device.

    Returns:
        updates ``(N, W)``, with one more row if the server trains an update of its own, and the smallest chunk that was
        needed.
    """
    backend, ranks, number = federation.backend, federation.ranks, draws.round_number
    rows = len(draws.batches.index_NSB)
    if len(draws.groups) == 1:
        optimizer = _optimizer(federation, draws.groups[0], number)
        return train_sharded(backend, task, params_D, optimizer, rows, ranks)
    updates_NW = params_D.new_empty(rows, ranks.width(task.model.layout.size))
    chunk = backend.chunk
    for group in draws.groups:
        assert group.rows_G is not None
        own, optimizer = _of_group(task, group.rows_G), _optimizer(federation, group, number)
        updates_GW, needed = train_sharded(backend, own, params_D, optimizer, len(group.rows_G), ranks)
        updates_NW.index_copy_(0, group.rows_G, updates_GW)
        chunk = min(chunk, needed)
    return updates_NW, chunk
