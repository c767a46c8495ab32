"""Which back end trains, and how many clients at a time: an explicit choice, recorded with the run."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

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
"""Bytes that a chunk may work on where no device memory is there to ask about."""
CACHE_BUDGET = 2 * 2**20
"""The same for a written-out gradient on a CPU: it reads a batch twice, the second time from the cache."""
MEASURED = "fastest measured for this model on a CPU"
UNMEASURED = "all clients of a chunk in each kernel"


@dataclass(frozen=True)
class Backend:
    """A resolved choice.

    Args:
        name: "vmap", "loop" or "analytic".
        chunk: clients at a time (1 for the loop).
        workers: chunks at a time.
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
        """Train every client of a round by this choice.

        Args:
            updates_ND: written to: the updates, local minus start.
            start: where clients start.
            model: functional model.
            batch_source: batches of the round.
            optimizer: optimizer and number of local steps.

        Returns:
            the smallest chunk that was needed: less than ``chunk`` where memory ran out.
        """
        gradient = GRADIENTS[self.name](model)
        settings = {"chunk": self.chunk, "workers": self.workers}
        return executor.train(updates_ND, start, model.layout, gradient, batch_source, optimizer, **settings)

    def as_dict(self) -> dict[str, object]:
        """Give the choice as run.json stores it.

        Returns:
            plain dictionary.
        """
        return asdict(self)


def chunk_size(
    model: Model,
    sample: Tensor,
    batch: int,
    clients: int,
    device: torch.device,
    name: str = "vmap",
    copies: int = 4,
) -> int:
    """Choose how many clients are trained at a time.

    A chunk takes at most a quarter of the free memory of a CUDA device, or 128 MiB on a CPU, by the memory model of
    ``clients.memory``; with a written-out gradient on a CPU, its batch stays within 2 MiB of cache.

    Args:
        model: functional model.
        sample: one sample on the meta device, for its shape and type.
        batch: batch size B.
        clients: clients of the round.
        device: where training runs.
        name: the back end.
        copies: numbers that the optimizer holds for each parameter.

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

    On a CPU as many chunks are trained at once as torch has threads, each by kernels of one thread.

    Args:
        name: "auto", "vmap", "loop" or "analytic".
        chunk: clients at a time, or None for the memory model.
        model: functional model.
        sample: one sample on the meta device, for its shape and type.
        batch: batch size.
        clients: clients of a round.
        device: where training runs.
        copies: numbers that the optimizer holds for each parameter.

    Returns:
        the resolved choice.

    Raises:
        UserError: an unknown name, a chunk for the loop, a model without a gradient of its own for ``analytic``, or one
            that draws random numbers.
    """
    if name not in BACKENDS:
        raise UserError(f"unknown back end '{name}'{nearest(name, BACKENDS)}; known: {', '.join(BACKENDS)}")
    if name == "loop" and chunk is not None:
        raise UserError(f"chunk={chunk} has no meaning for back end 'loop', which trains one client at a time")
    reason = "asked for"
    if name == "auto":
        name, reason = _fastest(model, chunk, device)
    GRADIENTS[name](model)
    refuse_random(model, sample)
    size = 1 if name == "loop" else chunk or chunk_size(model, sample, batch, clients, device, name, copies)
    workers = min(torch.get_num_threads(), -(-clients // size)) if device.type == "cpu" else 1
    return Backend(name, size, workers, reason)


def _fastest(model: Model, chunk: int | None, device: torch.device) -> tuple[str, str]:
    """Give what ``auto`` takes, and why."""
    if device.type != "cpu":
        return "vmap" if model.gradient is None else "analytic", UNMEASURED
    if model.cpu_backend == "loop" and chunk is not None:
        return "vmap", "a chunk was asked for, and the loop has none"
    return model.cpu_backend, MEASURED
