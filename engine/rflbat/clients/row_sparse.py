"""Local training of a model with a table (an embedding) on the rows that a client's texts touch, and on no other.

Whatever row of the table no token of a client's batches picks stays as it is, so that it is neither copied nor trained
nor sent: the same model with a short table is trained instead, and the updates are row-sparse.
Axes: N clients of the round, n clients of a chunk, W words, M words stored for everybody, R words that a client has for
itself, K = M + R stored rows, E numbers of a row, D parameters, Q stored parameters, S local steps, B batch.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from rflbat.attacks.base import Attack
from rflbat.clients.executor import InitialParams
from rflbat.clients.step import BatchSource
from rflbat.models.base import Model
from rflbat_kernels import RowSparse, SharedRows, TouchedRows


@dataclass(frozen=True)
class LocalTask:
    """What the clients of a round train, in the terms of a back end.

    Args:
        model: functional model.
        start: where clients start.
        batch_source: batches of the round.
        touched: rows that are stored of the model's table; None: all parameters are.
    """

    model: Model
    start: InitialParams
    batch_source: BatchSource
    touched: TouchedRows | None = None

    def values(self, updates_NQ: Tensor) -> Tensor | RowSparse:
        """Say what the trained numbers mean.

        Args:
            updates_NQ: what the back end wrote.

        Returns:
            the updates.
        """
        return updates_NQ if self.touched is None else RowSparse(updates_NQ, self.touched)


def row_sparse(model: Model, weight_decay: float, attack: Attack, ranks: int = 1) -> tuple[bool, str]:
    """Say whether updates are row-sparse, and why.

    Args:
        model: functional model.
        weight_decay: of the clients' optimizer.
        attack: tampers with the updates.
        ranks: processes that the columns of the updates are divided among.

    Returns:
        the answer, and a line for run.json.
    """
    if not model.embedding or model.with_rows is None:
        return False, "dense: the model has no table of which samples pick rows"
    if weight_decay:
        return False, f"dense: weight_decay={weight_decay:g} changes every row of {model.embedding}"
    if not attack.row_wise:
        return False, f"dense: attack '{attack.name}' does not say that it is row-wise"
    if ranks > 1:
        return False, f"dense: {ranks} ranks exchange all columns of the updates"
    return True, f"row-sparse: a client trains and sends the rows of {model.embedding} that its texts touch"


def at_most_with_rows(model: Model, tokens: int) -> Model:
    """Give a bound of what a client trains, for the memory model.

    ``M + R <= 3 t`` for t tokens of a client in a round: half of the clients have each common word.

    Args:
        model: a model with a table.
        tokens: tokens of all batches of a client in a round.

    Returns:
        the model with so many rows.
    """
    words = model.layout.shapes[model.embedding][0]
    return model if model.with_rows is None else model.with_rows(min(words, 3 * tokens))


def touched_rows(model: Model, batch_source: BatchSource, clients: int, steps: int) -> TouchedRows:
    """Find the rows of a model's table that each client of a round touches.

    Where at least half of the clients touch a row it is stored for all of them; the others for those that do.

    Args:
        model: a model with a table.
        batch_source: batches of the round as they are trained, stamped, on the host.
        clients: clients N of the round.
        steps: local steps S.

    Returns:
        the rows, on the host.
    """
    words, width = model.layout.shapes[model.embedding]
    touched = torch.zeros(clients, words, dtype=torch.bool)
    for step in range(steps):
        tokens = batch_source(slice(0, clients), step)[0].flatten(1)
        touched.scatter_(1, tokens, True)
    touched_NW = touched.numpy()
    count_W = touched_NW.sum(0)
    common_W = 2 * count_W >= clients
    touched_NW &= ~common_W
    client_K, word_K = np.nonzero(touched_NW)
    own_N = np.bincount(client_K, minlength=clients)
    place_K = np.arange(len(word_K)) - (own_N.cumsum() - own_N)[client_K]
    own_NR = np.full((clients, own_N.max(initial=0)), words)
    own_NR[client_K, place_K] = word_K
    return TouchedRows(
        model.layout.offset(model.embedding),
        words,
        width,
        torch.from_numpy(np.flatnonzero(common_W)),
        torch.from_numpy(own_NR),
        _by_count(count_W, word_K, client_K, place_K),
    )


def _by_count(
    count_W: np.ndarray, word_K: np.ndarray, client_K: np.ndarray, place_K: np.ndarray
) -> tuple[SharedRows, ...]:
    """Group the (word, client, place) of own rows by the number of clients that have the word."""
    order = np.argsort(count_W[word_K] * len(count_W) + word_K, kind="stable")
    word_K, client_K, place_K = word_K[order], client_K[order], place_K[order]
    counts, firsts = np.unique(count_W[word_K], return_index=True)
    groups = []
    for count, (first, stop) in zip(counts, pairwise([*firsts, len(word_K)]), strict=True):
        word_GC, *who = (each[first:stop].reshape(-1, count) for each in (word_K, client_K, place_K))
        groups.append(SharedRows(*map(torch.from_numpy, (word_GC[:, 0].copy(), *who))))
    return tuple(groups)


def on_rows(task: LocalTask, touched: TouchedRows) -> LocalTask:
    """Train the stored rows alone: the same model with a short table, whose tokens are places in it.

    Args:
        work: model, start and feed of all parameters.
        table: which rows, on the device of training; those of the whole round.

    Returns:
        the same work on Q parameters, which gives the same updates.

    Raises:
        ValueError: the model has no touched.
    """
    if task.model.with_rows is None:
        raise ValueError(f"model '{task.model.name}' has no table")
    short = task.model.with_rows(touched.rows)
    stop = touched.first + touched.words * touched.width
    place_K = torch.arange(touched.rows, device=touched.common_M.device)

    def stored(rows: slice) -> Tensor:
        own_nR = touched.own_NR[rows]
        return torch.cat([touched.common_M.expand(len(own_nR), -1), own_nR], 1)

    def start(rows: slice) -> Tensor:
        full_nD = task.start(rows)
        table_nWE = full_nD[:, touched.first : stop].view(len(full_nD), touched.words, touched.width)
        word_nK = stored(rows).clamp_max(touched.words - 1)
        start_nQ = full_nD.new_empty(len(full_nD), short.layout.size)
        own_stop = touched.first + touched.rows * touched.width
        start_nQ[:, : touched.first], start_nQ[:, own_stop:] = full_nD[:, : touched.first], full_nD[:, stop:]
        own_nKE = start_nQ[:, touched.first : own_stop].view(*word_nK.shape, touched.width)
        for all_WE, word_K, own_KE in zip(table_nWE, word_nK, own_nKE, strict=True):
            torch.index_select(all_WE, 0, word_K, out=own_KE)
        return start_nQ

    def batch_source(rows: slice, step: int) -> tuple[Tensor, Tensor, Tensor]:
        x_nBT, labels_nB, weight_nB = task.batch_source(rows, step)
        word_nK = stored(rows)
        # No row has the number -1: a token that was not foreseen is an error in the lookup. W stands for padding.
        place_nW = word_nK.new_full((len(word_nK), touched.words + 1), -1)
        place_nW.scatter_(1, word_nK, place_K.expand_as(word_nK))
        return place_nW.gather(1, x_nBT.flatten(1)).view_as(x_nBT), labels_nB, weight_nB

    return replace(task, model=short, start=start, batch_source=batch_source, touched=touched)
