"""The choice of the training back end and the chunk size, made explicitly and recorded with the run."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rflbat.clients import analytic, executor, loop, vmap
from rflbat.clients.memory import bytes_per_client, refuse_random
from rflbat.clients.optimizer import Optimizer
from rflbat.clients.registry import BACKENDS
from rflbat.clients.step import BatchSource, Gradient
from rflbat.errors import UserError, nearest
from rflbat.models.base import Model

GRADIENTS: dict[str, Callable[[Model], Gradient]] = {
    "vmap": vmap.gradient,
    "loop": loop.gradient,
    "analytic": analytic.gradient,
}
CPU_BUDGET = 128 * 2**20
"""Memory budget in bytes of a chunk on a CPU, where free device memory cannot be queried."""
CACHE_BUDGET = 2 * 2**20
"""The same for an analytic gradient on a CPU, which reads a batch twice, the second time from the cache."""
DECLARED = "the model's back end for a CPU"
UNMEASURED = "all clients of a chunk in each kernel"


@dataclass(frozen=True)
class Backend:
    """A resolved back end.

    Args:
        name: "vmap", "loop" or "analytic".
        chunk: clients per chunk (1 for the loop).
        workers: number of chunks trained at the same time.
        reason: why ``auto`` chose it, or "asked for".
    """

    name: str
    chunk: int
    workers: int
    reason: str

    def train(
        self,
        updates_ND: Tensor,
        start: executor.InitialParams,
        model: Model,
        batch_source: BatchSource,
        optimizer: Optimizer,
    ) -> int:
        """Train every client of a round with this back end.

        Args:
            updates_ND: written to: the updates, local minus initial parameters.
            start: the clients' initial parameters.
            model: functional model.
            batch_source: batches of the round.
            optimizer: optimizer and number of local steps.

        Returns:
            the smallest chunk that was needed; less than ``chunk`` if memory ran out.
        """
        gradient = GRADIENTS[self.name](model)
        settings = {"chunk": self.chunk, "workers": self.workers}
        return executor.train(updates_ND, start, model.layout, gradient, batch_source, optimizer, **settings)


def chunk_size(
    model: Model,
    sample: Tensor,
    batch: int,
    clients: int,
    device: torch.device,
    name: str = "vmap",
    copies: int = 4,
) -> int:
    """Choose the number of clients per chunk.

    A chunk takes at most a quarter of the free memory of a CUDA device, or 128 MiB on a CPU, by the memory model of
    ``clients.memory``. With an analytic gradient on a CPU, its batch stays within 2 MiB of cache.

    Args:
        model: functional model.
        sample: one sample on the meta device, for its shape and dtype.
        batch: batch size B.
        clients: number of clients of the round.
        device: device of training.
        name: the back end.
        copies: numbers that the optimizer holds per parameter.

    Returns:
        number of clients, at least 1.
    """
    if device.type == "cuda":
        budget, needed = torch.cuda.mem_get_info(device)[0] // 4, bytes_per_client(model, sample, batch, copies)
    elif name == "analytic":
        budget, needed = CACHE_BUDGET, batch * sample.nbytes
    else:
        budget, needed = CPU_BUDGET, bytes_per_client(model, sample, batch, copies)
    return max(1, min(clients, budget // needed))


def choose_backend(
    name: str,
    chunk: int | None,
    model: Model,
    sample: Tensor,
    batch: int,
    clients: int,
    device: torch.device,
    copies: int = 4,
) -> Backend:
    """Resolve ``auto``, the chunk size and the number of workers.

    On a CPU as many chunks are trained at once as torch has threads, each with single-threaded kernels.

    Args:
        name: "auto", "vmap", "loop" or "analytic".
        chunk: clients per chunk, or None to use the memory model.
        model: functional model.
        sample: one sample on the meta device, for its shape and dtype.
        batch: batch size.
        clients: number of clients per round.
        device: device of training.
        copies: numbers that the optimizer holds per parameter.

    Returns:
        the resolved back end.

    Raises:
        UserError: an unknown name, a chunk size for the loop, a model without an analytic gradient for ``analytic``, or
            a model that draws random numbers, or that ``vmap`` cannot transform.
    """
    asked = name
    if name not in BACKENDS:
        raise UserError(f"unknown back end '{name}'{nearest(name, BACKENDS)}; known: {', '.join(BACKENDS)}")
    if name == "loop" and chunk is not None:
        raise UserError(f"chunk={chunk} cannot be used with back end 'loop', which trains one client at a time")
    reason = "asked for"
    if name == "auto":
        name, reason = _fastest(model, chunk, device)
    GRADIENTS[name](model)
    refuse_random(model, sample)
    if name == "vmap" and model.untried and (refused := vmap.refusal(model, sample)):
        if asked == "vmap" or chunk is not None:
            what = f"backend={asked!r}" if chunk is None else f"chunk={chunk}"
            raise UserError(f"{what}: vmap cannot transform model '{model.name}' ({refused}); allowed: backend='loop'")
        name, reason = "loop", f"vmap cannot transform the model: {refused}"
    size = 1 if name == "loop" else chunk or chunk_size(model, sample, batch, clients, device, name, copies)
    workers = min(torch.get_num_threads(), -(-clients // size)) if device.type == "cpu" else 1
    return Backend(name, size, workers, reason)


def _fastest(model: Model, chunk: int | None, device: torch.device) -> tuple[str, str]:
    """Return the back end that ``auto`` chooses, and the reason."""
    if device.type != "cpu":
        return "vmap" if model.gradient is None else "analytic", UNMEASURED
    if model.cpu_backend == "loop" and chunk is not None:
        return "vmap", "a chunk size was asked for, which the loop does not take"
    return model.cpu_backend, DECLARED
