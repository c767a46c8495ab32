"""Local training of a round: one chunk after another, or several chunks at once on the cores of a CPU.

Axes: N clients of the round, n clients of a chunk, D parameters.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from rflbat.clients.optimizer import Optimizer
from rflbat.clients.step import BatchSource, Gradient
from rflbat.parameters import Layout

InitialParams = Callable[[slice | Tensor], Tensor]
"""``start(rows)`` returns the initial parameters ``(n, D)`` of the clients; rows may differ. Rows are a slice, or int64
positions on the device."""
_log = logging.getLogger(__name__)


class ClientDoesNotFit(MemoryError):
    """Memory ran out while a single client was trained, so the chunk cannot be made smaller."""


def same_start(params_D: Tensor) -> InitialParams:
    """Start every client from the same parameters, without copying them.

    Args:
        params_D: global parameters.

    Returns:
        function that returns the initial parameters.
    """
    return lambda rows: params_D.expand(rows.stop - rows.start if isinstance(rows, slice) else len(rows), -1)


def train(
    updates_ND: Tensor,
    start: InitialParams,
    layout: Layout,
    gradient: Gradient,
    batch_source: BatchSource,
    optimizer: Optimizer,
    *,
    chunk: int,
    workers: int = 1,
) -> int:
    """Train every client and write its update, local minus initial parameters.

    Chunks are independent: neither their size nor the number of workers changes a client's batches. A chunk bounds
    memory. A chunk that does not fit is trained again from the start as two halves; it has not written anything yet.

    Args:
        updates_ND: written to; may hold anything.
        start: the clients' initial parameters.
        layout: names of the D parameters.
        gradient: a back end's gradient of a chunk.
        batch_source: batches of the round.
        optimizer: optimizer and number of local steps.
        chunk: clients per chunk, at least 1.
        workers: number of chunks trained at the same time. If more than one, each runs on its own thread with
            single-threaded kernels.

    Returns:
        ``chunk``, or the smallest piece of a chunk that was needed if memory ran out.

    Raises:
        ClientDoesNotFit: a single client does not fit.
        RuntimeError: a step failed; the message names the clients, the step and the shapes.
    """
    rows = [slice(first, min(first + chunk, len(updates_ND))) for first in range(0, len(updates_ND), chunk)]
    task = partial(
        _train_or_halve, partial(_train_chunk, updates_ND, start, layout, gradient, batch_source, optimizer), chunk
    )
    if workers == 1:
        return min(map(task, rows))
    with _single_threaded(), ThreadPoolExecutor(workers, "rflbat-train") as pool:
        return min(pool.map(task, rows))


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Make kernels single-threaded in new threads: on a CPU two such workers beat kernels of two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train_or_halve(train_chunk: Callable[[slice], None], chunk: int, rows: slice) -> int:
    """Train a chunk, or its two halves if memory runs out. Return ``chunk`` or the smallest piece that was needed."""
    clients: int = rows.stop - rows.start
    try:
        train_chunk(rows)
        return chunk
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if clients == 1:
            raise ClientDoesNotFit(str(error)) from error
        needed = str(error).partition("\n")[0]
    # Continue outside the handler, because the exception's frames hold the tensors of the failed chunk.
    _log.warning("out of memory with a chunk of %d clients (%s); retrying with two halves", clients, needed)
    half = clients // 2
    middle = rows.start + half
    pieces = ((half, slice(rows.start, middle)), (clients - half, slice(middle, rows.stop)))
    return min(_train_or_halve(train_chunk, size, piece) for size, piece in pieces)


def is_out_of_memory(error: Exception) -> bool:
    """Detect a failed allocation: CUDA raises its own type, the host only a message.

    Args:
        error: the exception.

    Returns:
        whether memory ran out.
    """
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


@torch.no_grad()
def _train_chunk(
    updates_ND: Tensor,
    start: InitialParams,
    layout: Layout,
    gradient: Gradient,
    batch_source: BatchSource,
    optimizer: Optimizer,
    rows: slice,
) -> None:
    """Run all local steps of a chunk on a copy of its parameters."""
    start_nD = start(rows)
    local_nD = start_nD.clone(memory_format=torch.contiguous_format)
    named, take_step = layout.views(local_nD), optimizer.start(layout, local_nD, start_nD)
    project = None if optimizer.rule is None else optimizer.rule.project
    for step in range(optimizer.steps):
        batch = batch_source(rows, step)
        before_nD = local_nD.clone() if optimizer.ragged else None
        try:
            take_step(gradient(named, *batch))
            if project is not None:
                project(local_nD[:, : layout.trained], start_nD[:, : layout.trained], step)
            if before_nD is not None:
                trains_n1 = (batch[2] > 0).any(1, keepdim=True)
                torch.where(trains_n1, local_nD, before_nD, out=local_nD)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            shapes = {name: tuple(tensor.shape[1:]) for name, tensor in named.items()}
            who = f"clients {rows.start} to {rows.stop - 1} of the round"
            where = f"{who}, step {step}, batch {tuple(batch[0].shape[1:])}, parameters {shapes}"
            raise RuntimeError(f"{where}: {error}") from error
    torch.sub(local_nD, start_nD, out=updates_ND[rows])
