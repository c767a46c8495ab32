"""Which back end trains, and how many clients at a time: an explicit choice, recorded with the run."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from rflbat.clients import loop, vmap
from rflbat.clients.step import SGD, Feed
from rflbat.errors import UserError, nearest
from rflbat.models.base import Model

BACKENDS = ("auto", "vmap", "loop")
CPU_BUDGET = 128 * 2**20
"""Bytes that a chunk may work on where no device memory is there to ask about."""

Train = Callable[[Tensor, Model, Feed, SGD], None]


@dataclass(frozen=True)
class Backend:
    """A resolved choice.

    Args:
        name: "vmap" or "loop".
        chunk: clients per tensor program (1 for the loop).
        reason: why ``auto`` chose it, or "asked for".
    """

    name: str
    chunk: int
    reason: str

    def train(self) -> Train:
        """Give the training function of this choice.

        Returns:
            function (params_ND, model, feed, sgd) that trains in place.
        """
        return partial(vmap.train, chunk=self.chunk) if self.name == "vmap" else loop.train

    def as_dict(self) -> dict[str, object]:
        """Give the choice as run.json stores it.

        Returns:
            plain dictionary.
        """
        return asdict(self)


def chunk_size(model: Model, sample: tuple[int, ...], batch: int, clients: int, device: torch.device) -> int:
    """Choose how many clients fit one tensor program.

    Memory model, float32: a client holds its batch twice (gathered, and for the backward pass) and its gradient,
    velocity and one temporary: ``4 * (2 * B * F + 3 * D)`` bytes. A chunk takes at most a quarter of the free
    memory of a CUDA device, or 128 MiB on a CPU.

    Args:
        model: functional model.
        sample: shape of one sample.
        batch: batch size B.
        clients: clients of the round.
        device: where training runs.

    Returns:
        number of clients, at least 1.
    """
    budget = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else CPU_BUDGET
    per_client = 4 * (2 * batch * math.prod(sample) + 3 * model.layout.size)
    return max(1, min(clients, budget // per_client))


def choose_backend(
    name: str, chunk: int | None, model: Model, sample: tuple[int, ...], batch: int, clients: int, device: torch.device
) -> Backend:
    """Resolve ``auto`` and the chunk size.

    Args:
        name: "auto", "vmap" or "loop".
        chunk: clients per tensor program, or None for the memory model.
        model: functional model.
        sample: shape of one sample.
        batch: batch size.
        clients: clients of a round.
        device: where training runs.

    Returns:
        the resolved choice.

    Raises:
        UserError: an unknown name, or a chunk for the loop.
    """
    if name not in BACKENDS:
        raise UserError(f"unknown back end '{name}'{nearest(name, BACKENDS)}; known: {', '.join(BACKENDS)}")
    if name == "loop":
        if chunk is not None:
            raise UserError(f"chunk={chunk} has no meaning for back end 'loop', which trains one client at a time")
        return Backend("loop", 1, "asked for")
    reason = "asked for"
    if name == "auto":
        reason = "fastest measured for this model on this kind of device"
        if device.type == "cpu" and model.cpu_backend == "loop":
            if chunk is None:
                return Backend("loop", 1, reason)
            reason = "a chunk was asked for, and only vmap has one"
    return Backend("vmap", chunk or chunk_size(model, sample, batch, clients, device), reason)
