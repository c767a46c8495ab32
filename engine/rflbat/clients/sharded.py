"""Local training on several ranks: each trains some of the clients and receives its own columns of all updates.

Axes: N clients of the round, n clients that a rank trains at a time, D parameters, W of them on a rank.
"""

from dataclasses import replace

from torch import Tensor

from rflbat.clients.backend import Backend
from rflbat.clients.optimizer import Optimizer
from rflbat.clients.row_sparse import LocalTask
from rflbat.ranks import Ranks

EXCHANGED_BYTES = 16 * 2**20
"""Minimum bytes of updates per all-to-all: a rank trains at least this much before it exchanges."""
TURNS = 8
"""Minimum number of exchanges per round when ``EXCHANGED_BYTES`` applies, so that a rank never holds much more than its
share of a round's updates."""


def at_a_time(backend: Backend, clients: int, parameters: int, ranks: Ranks) -> int:
    """Choose how many clients a rank trains between two exchanges: at least as many as its back end trains at a time.

    Args:
        backend: back end of this rank.
        clients: number of clients N of the round.
        parameters: D.
        ranks: the process group.

    Returns:
        number of clients n, at least 1.
    """
    worth = min(EXCHANGED_BYTES // (4 * parameters), clients // (TURNS * ranks.count))
    return min(-(-clients // ranks.count), max(backend.chunk * backend.workers, worth))


def train_sharded(
    backend: Backend, task: LocalTask, params_D: Tensor, optimizer: Optimizer, clients: int, ranks: Ranks
) -> tuple[Tensor, int]:
    """Train every client of a round, and return this rank's columns of all updates, local minus initial parameters.

    In each turn every rank trains n clients on all parameters. An all-to-all then writes each rank's columns of these
    updates directly to their place. A rank thus never holds more than ``4 (N W + 2 n D)`` bytes of updates, and 4 N D
    only if it is the only rank.

    Args:
        backend: back end of this rank; its chunk may differ between ranks.
        task: the local training; on all parameters, unless there is a single process.
        params_D: global parameters, for their dtype and device.
        optimizer: optimizer and number of local steps.
        clients: number of clients N of the round.
        ranks: the process group.

    Returns:
        updates ``(N, W)``, and the smallest chunk that was needed on this rank, as from ``Backend.train``.
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
                error.add_note(f"on rank {ranks.rank}, which numbers clients from client {own_first} of the round")
                raise
        ranks.all_to_all(updates_nD, updates_NW[block], rows)
    return updates_NW, chunk


def _blocks(backend: Backend, clients: int, parameters: int, ranks: Ranks) -> list[slice]:
    """Agree on the clients of each turn: as even as possible, and at most what the smallest rank can take."""
    smallest = int(-ranks.all_max(-at_a_time(backend, clients, parameters, ranks))[0])
    turns = Ranks(count=-(-clients // (smallest * ranks.count)))
    return [turns.rows(clients, turn) for turn in range(turns.count)]


def _from(task: LocalTask, first: int) -> LocalTask:
    """Return the same task with clients counted from ``first``."""

    def moved(rows: slice | Tensor) -> slice | Tensor:
        return slice(rows.start + first, rows.stop + first) if isinstance(rows, slice) else rows + first

    def start(rows: slice | Tensor) -> Tensor:
        return task.start(moved(rows))

    def batch_source(rows: slice | Tensor, step: int) -> tuple[Tensor, ...]:
        return task.batch_source(moved(rows), step)

    return replace(task, start=start, batch_source=batch_source)
