"""Local training over several ranks: each trains some of the clients, and ends with its own columns of all updates.

Axes: N clients of the round, n clients of a rank at a time, D parameters, W of them of a rank.
"""

from dataclasses import replace

from torch import Tensor

from rflbat.clients.backend import Backend
from rflbat.clients.optimizer import Optimizer
from rflbat.clients.row_sparse import LocalTask
from rflbat.ranks import Ranks

EXCHANGED_BYTES = 16 * 2**20
"""Of updates that a rank collects before it sends their columns on, where that is more than it trains at a time."""
TURNS = 8
"""Fewest turns that updates are exchanged in for that: so a rank never holds many more than its share of a round's."""


def at_a_time(backend: Backend, clients: int, parameters: int, ranks: Ranks) -> int:
    """Choose how many clients a rank trains between two exchanges: at least what its back end trains at a time.

    Args:
        backend: how clients are trained here.
        clients: clients of the round N.
        parameters: D.
        ranks: who take part.

    Returns:
        number of clients n, at least 1.
    """
    worth = min(EXCHANGED_BYTES // (4 * parameters), clients // (TURNS * ranks.count))
    return min(-(-clients // ranks.count), max(backend.chunk * backend.workers, worth))


def train_sharded(
    backend: Backend, task: LocalTask, params_D: Tensor, optimizer: Optimizer, clients: int, ranks: Ranks
) -> tuple[Tensor, int]:
    """Train every client of a round, and give this rank's columns of all updates, local minus start.

    Turn after turn each rank trains n clients on all parameters; then every rank gets its columns of these updates from
    every other (all-to-all), straight into their place. So a rank never holds more than ``4 (N W + 2 n D)`` bytes of
    updates, and 4 N D only where it is alone.

    Args:
        backend: how clients are trained; its chunk may differ between ranks.
        work: what is trained; all parameters, unless the process is alone.
        params_D: global parameters, for their type and device.
        optimizer: optimizer and number of local steps.
        clients: how many there are N.
        ranks: who take part.

    Returns:
        updates ``(N, W)``, and the smallest chunk that was needed here, as ``Backend.train`` gives it.
    """
    parameters = task.model.layout.size
    updates_NW = params_D.new_empty(clients, ranks.width(parameters))
    if ranks.is_single:
        return updates_NW, backend.train(updates_NW, task.start, task.model, task.batch_source, optimizer)
    chunk = backend.chunk
    for block in _blocks(backend, clients, parameters, ranks):
        shares = [ranks.rows(block.stop - block.start, rank) for rank in range(ranks.count)]
        rows = [share.stop - share.start for share in shares]
        updates_nD = params_D.new_empty(rows[ranks.rank], parameters)
        if len(updates_nD):
            own_first = block.start + shares[ranks.rank].start
            own = _from(task, own_first)
            try:
                chunk = min(chunk, backend.train(updates_nD, own.start, own.model, own.batch_source, optimizer))
            except RuntimeError as error:
                error.add_note(
                    f"on rank {ranks.rank}, where these clients are counted from {own_first} of the round on"
                )
                raise
        ranks.all_to_all(updates_nD, updates_NW[block], rows)
    return updates_NW, chunk


def _blocks(backend: Backend, clients: int, parameters: int, ranks: Ranks) -> list[slice]:
    """Agree on the clients of each turn: as even as can be, and no more than the least of the ranks can take."""
    smallest = int(-ranks.all_max(-at_a_time(backend, clients, parameters, ranks))[0])
    turns = Ranks(count=-(-clients // (smallest * ranks.count)))
    return [turns.rows(clients, turn) for turn in range(turns.count)]


def _from(task: LocalTask, first: int) -> LocalTask:
    """Give the same work with clients counted from ``first`` of the round on."""

    def moved(rows: slice) -> slice:
        return slice(rows.start + first, rows.stop + first)

    def start(rows: slice) -> Tensor:
        return task.start(moved(rows))

    def batch_source(rows: slice, step: int) -> tuple[Tensor, Tensor, Tensor]:
        return task.batch_source(moved(rows), step)

    return replace(task, start=start, batch_source=batch_source)
