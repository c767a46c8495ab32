"""Local training, written once: the loss of one client's batch, the feed of batches, and one SGD step.

Axes: n clients of a chunk, S local steps, B batch, D parameters.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rflbat.clients.batches import Batches
from rflbat.models.base import Gradients, Model
from rflbat.parameters import Layout

Feed = Callable[[slice, int], tuple[Tensor, Tensor, Tensor]]
"""``feed(rows, step)`` gives ``x (n, B, *sample)``, labels ``(n, B)`` and sample weights ``(n, B)`` of the clients. The
next call from the same thread may write over that ``x``."""

Gradient = Callable[[Mapping[str, Tensor], Tensor, Tensor, Tensor], Gradients]
"""``gradient(named (n, ...), x (n, B, *sample), labels (n, B), weights (n, B))`` of the batch loss of each client."""

Stamp = Callable[[Tensor, Tensor], Tensor]
"""``stamp(x_B..., on_B)`` puts the trigger on the samples where ``on`` is true; may write into ``x``."""


@dataclass(frozen=True)
class SGD:
    """Plain mini-batch SGD, as torch.optim.SGD without dampening.

    ``g <- g + weight_decay * p``; ``v <- momentum * v + g``; ``p <- p - lr * v``. The velocity starts at zero in
    every round.

    Args:
        steps: local steps S.
        lr: learning rate, above 0.
        momentum: 0 to below 1.
        weight_decay: 0 or above.
    """

    steps: int
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def apply(self, params: Tensor, gradient: Tensor, velocity: Tensor | None) -> None:
        """Take one step in place, on any slice of the flat buffer.

        Args:
            params: parameters.
            gradient: same shape; not written to: autograd may give two parameters one tensor.
            velocity: same shape, or None without momentum.
        """
        if self.weight_decay:
            gradient = gradient.add(params, alpha=self.weight_decay)
        if velocity is not None:
            gradient = velocity.mul_(self.momentum).add_(gradient)
        params.sub_(gradient, alpha=self.lr)


def batch_loss(model: Model) -> Callable[[Mapping[str, Tensor], Tensor, Tensor, Tensor], Tensor]:
    """Make the loss of one client's batch: the weighted mean cross-entropy, so that padding counts nothing.

    Args:
        model: functional model.

    Returns:
        pure function (parameters, x_B, labels_B, weight_B) -> scalar.
    """

    def loss(parameters: Mapping[str, Tensor], x: Tensor, labels_B: Tensor, weight_B: Tensor) -> Tensor:
        each_B = torch.nn.functional.cross_entropy(model.apply(parameters, x), labels_B, reduction="none")
        return (each_B * weight_B).sum() / weight_B.sum()

    return loss


def make_feed(
    x: Tensor, labels: Tensor, batches: Batches, stamps: tuple[Stamp, ...], group_N: Tensor, target: int
) -> Feed:
    """Gather batches from the resident training set, and stamp and relabel the poisoned samples there.

    Args:
        x: all training samples as floats, on the device.
        labels: all training labels, int64, on the device.
        batches: the round's plan, on the device.
        stamps: one trigger per group of malicious clients (one group unless the backdoor is distributed).
        group_N: int64, the group whose trigger each client stamps.
        target: label of the poisoned samples.

    Returns:
        the feed.
    """

    index_NSB, weight_NSB = batches.index_NSB, batches.weight_NSB
    labels_NSB = labels[index_NSB].masked_fill_(batches.poisoned_NSB, target)
    # Every batch of a thread lies in the same memory: on a CPU fresh pages cost as much as the gather.
    rooms = threading.local()

    def feed(rows: slice, step: int) -> tuple[Tensor, Tensor, Tensor]:
        index_nB = index_NSB[rows, step]
        x_nB = torch.index_select(x, 0, index_nB.reshape(-1), out=_room(rooms, x, index_nB.numel()))
        for number, stamp in enumerate(stamps):
            poisoned_nB = batches.poisoned_NSB[rows, step]
            x_nB = stamp(x_nB, (poisoned_nB & (group_N[rows, None] == number)).reshape(-1))
        return x_nB.view(*index_nB.shape, *x.shape[1:]), labels_NSB[rows, step], weight_NSB[rows, step]

    return feed


def _room(rooms: threading.local, x: Tensor, count: int) -> Tensor:
    """Give this thread's memory for so many samples."""
    room: Tensor | None = getattr(rooms, "x", None)
    if room is None or len(room) < count:
        room = rooms.x = x.new_empty(count, *x.shape[1:])
    return room[:count]


def local_buffers(layout: Layout, params: Tensor, sgd: SGD) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """Name the parameters and the velocities (None without momentum) of a chunk of clients.

    Args:
        layout: the model's layout.
        params: slice of the flat buffer.
        sgd: the optimizer.

    Returns:
        named parameters, named velocities.
    """
    named = layout.views(params)
    if not sgd.momentum:
        return named, dict.fromkeys(named)
    return named, dict(layout.views(torch.zeros_like(params)))
