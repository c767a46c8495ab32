"""Local training of a model with an embedding on only the rows that a client's texts touch.

An embedding row that no token of a client's batches selects stays unchanged, so it is neither copied nor trained nor
part of the update. The same model with a shorter embedding is trained instead, and the updates are row-sparse.
Axes: N clients of the round, n clients of a chunk, W words, M words stored for all clients, R words stored per client,
K = M + R stored rows, E numbers per row, D parameters, Q stored parameters, S local steps, B batch.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from rflbat.attacks.base import Attack
from rflbat.clients.executor import InitialParams
from rflbat.clients.optimizer import Optimizer
from rflbat.clients.step import BatchSource
from rflbat.models.base import Model
from rflbat_kernels import RowSparse, SharedRows, TouchedRows


@dataclass(frozen=True)
class LocalTask:
    """The local training of a round, as a back end runs it.

    Args:
        model: functional model.
        start: the clients' initial parameters.
        batch_source: batches of the round.
        touched: stored rows of the model's embedding; None: all parameters are stored.
    """

    model: Model
    start: InitialParams
    batch_source: BatchSource
    touched: TouchedRows | None = None

    def values(self, updates_NQ: Tensor) -> Tensor | RowSparse:
        """Wrap the trained numbers as updates.

        Args:
            updates_NQ: output of the back end.

        Returns:
            the updates, row-sparse if ``touched`` is set.
        """
        return updates_NQ if self.touched is None else RowSparse(updates_NQ, self.touched)


def row_sparse(
    model: Model, optimizers: Sequence[Optimizer], attack: Attack, ranks: int = 1, needs: Collection[str] = ()
) -> tuple[bool, str]:
    """Decide whether updates are row-sparse, and state the reason.

    Args:
        model: functional model.
        optimizers: those of all groups of clients.
        attack: the attack, which tampers with the updates.
        ranks: number of processes over which the columns of the updates are sharded.
        needs: what the defenses need besides the updates, as in ``Defense.needs``.

    Returns:
        the answer, and a line for run.json.
    """
    if model.train_apply is not None or model.constants:
        return False, "dense: the model is a module, carries a state or has frozen parameters"
    if not model.embedding or model.with_rows is None:
        return False, "dense: the model has no embedding that can be shortened"
    for optimizer in optimizers:
        if optimizer.weight_decay:
            return False, f"dense: weight_decay={optimizer.weight_decay:g} changes every row of {model.embedding}"
        if optimizer.rule is not None and not optimizer.rule.moves_only:
            return False, f"dense: local rule '{optimizer.rule.name}' reads every row of {model.embedding}"
    if attack.triggers is not None:
        return False, f"dense: the triggers of attack '{attack.name}' change from round to round"
    if not attack.row_wise:
        return False, f"dense: attack '{attack.name}' is not declared row-wise"
    if attack.knowledge != "own":
        return False, f"dense: attack '{attack.name}' sees the global model in the columns of all parameters"
    if needs:
        return False, f"dense: a defense needs {', '.join(sorted(needs))} in the columns of all parameters"
    if ranks > 1:
        return False, f"dense: {ranks} ranks exchange all columns of the updates"
    return True, f"row-sparse: a client trains only the rows of {model.embedding} that its texts touch"


def at_most_with_rows(model: Model, tokens: int) -> Model:
    """Bound the model that a client trains, for the memory model.

    ``M + R <= 3 t`` for t tokens of a client in a round, since each word stored for all clients occurs in at least half
    of them.

    Args:
        model: a model with an embedding.
        tokens: number of tokens in all batches of a client in a round.

    Returns:
        the model with an embedding of at most ``3 * tokens`` rows.
    """
    words = model.layout.shapes[model.embedding][0]
    return model if model.with_rows is None else model.with_rows(min(words, 3 * tokens))


def touched_rows(model: Model, batch_source: BatchSource, clients: int, steps: int) -> TouchedRows:
    """Find the embedding rows that each client of a round touches.

    A row that at least half of the clients touch is stored for all clients, any other row only for the clients that
    touch it.

    Args:
        model: a model with an embedding.
        batch_source: batches of the round as they are trained, with triggers stamped, on the host.
        clients: number of clients N of the round.
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
    """Group the (word, client, place) triples of own rows by the number of clients that have the word."""
    order = np.argsort(count_W[word_K] * len(count_W) + word_K, kind="stable")
    word_K, client_K, place_K = word_K[order], client_K[order], place_K[order]
    counts, firsts = np.unique(count_W[word_K], return_index=True)
    groups = []
    for count, (first, stop) in zip(counts, pairwise([*firsts, len(word_K)]), strict=True):
        word_GC, *who = (each[first:stop].reshape(-1, count) for each in (word_K, client_K, place_K))
        groups.append(SharedRows(*map(torch.from_numpy, (word_GC[:, 0].copy(), *who))))
    return tuple(groups)


def on_rows(task: LocalTask, touched: TouchedRows) -> LocalTask:
    """Restrict a task to the stored rows: the same model with a shorter embedding, indexed by place in it.

    Args:
        task: model, initial parameters and batch source of all parameters.
        touched: the stored rows of the whole round, on the device of training.

    Returns:
        the same task on Q parameters, which gives the same updates.

    Raises:
        ValueError: the model has no embedding.
    """
    if task.model.with_rows is None:
        raise ValueError(f"model '{task.model.name}' has no embedding")
    short = task.model.with_rows(touched.rows)
    stop = touched.first + touched.words * touched.width
    place_K = torch.arange(touched.rows, device=touched.common_M.device)

    def stored(rows: slice | Tensor) -> Tensor:
        own_nR = touched.own_NR[rows]
        return torch.cat([touched.common_M.expand(len(own_nR), -1), own_nR], 1)

    def start(rows: slice | Tensor) -> Tensor:
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

    def batch_source(rows: slice | Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        x_nBT, labels_nB, weight_nB = task.batch_source(rows, step)
        word_nK = stored(rows)
        # -1 marks a token that has no stored row, so that an unexpected token fails in the lookup instead of training
        # a wrong row. Index W is padding.
        place_nW = word_nK.new_full((len(word_nK), touched.words + 1), -1)
        place_nW.scatter_(1, word_nK, place_K.expand_as(word_nK))
        return place_nW.gather(1, x_nBT.flatten(1)).view_as(x_nBT), labels_nB, weight_nB

    return replace(task, model=short, start=start, batch_source=batch_source, touched=touched)
