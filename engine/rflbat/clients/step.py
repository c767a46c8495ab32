"""Shared parts of local training: the loss of one client's batch, and the batch source.

Axes: n clients of a chunk, S local steps, B batch.
"""

import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rflbat.attacks.base import Trigger
from rflbat.clients.batches import Batches
from rflbat.models.base import Gradients, Model

BatchSource = Callable[[slice | Tensor, int], tuple[Tensor, Tensor, Tensor]]
"""``batch_source(rows, step)`` returns ``x (n, B, *sample)``, labels ``(n, B)`` and sample weights ``(n, B)`` of the
clients. Rows are a slice, or int64 positions on the device. The next call from the same thread may overwrite ``x``."""

Gradient = Callable[[Mapping[str, Tensor], Tensor, Tensor, Tensor], Gradients]
"""``gradient(named (n, ...), x (n, B, *sample), labels (n, B), weights (n, B))`` returns the gradient of each client's
batch loss."""


def batch_loss(model: Model) -> Callable[[Mapping[str, Tensor], Tensor, Tensor, Tensor], Tensor]:
    """Return the loss of one client's batch: the weighted mean cross-entropy, in which padding has weight 0.

    Args:
        model: functional model.

    Returns:
        pure function (parameters, x_B, labels_B, weight_B) -> scalar.
    """

    def loss(parameters: Mapping[str, Tensor], x: Tensor, labels_B: Tensor, weight_B: Tensor) -> Tensor:
        each_B = torch.nn.functional.cross_entropy(model.apply(parameters, x), labels_B, reduction="none")
        return (each_B * weight_B).sum() / weight_B.sum()

    return loss


def make_batch_source(
    x: Tensor, labels: Tensor, batches: Batches, triggers: tuple[Trigger, ...], group_N: Tensor, target: int
) -> BatchSource:
    """Build the source that gathers batches on the device and stamps and relabels their poisoned samples.

    Args:
        x: all training samples as floats, on the device.
        labels: all training labels, int64, on the device.
        batches: the round's batches, on the device.
        triggers: one per group of malicious clients (one group unless the backdoor is distributed).
        group_N: int64, the group whose trigger each client stamps.
        target: label of the poisoned samples.

    Returns:
        the batch source.
    """
    index_NSB, weight_NSB = batches.index_NSB, batches.weight_NSB
    labels_NSB = labels[index_NSB].masked_fill_(batches.poisoned_NSB, target)
    # All batches of a thread reuse one buffer: on a CPU fresh pages cost as much as the gather.
    rooms = threading.local()

    def batch_source(rows: slice | Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        index_nB = index_NSB[rows, step]
        x_nB = torch.index_select(x, 0, index_nB.reshape(-1), out=_room(rooms, x, index_nB.numel()))
        for number, trigger in enumerate(triggers):
            poisoned_nB = batches.poisoned_NSB[rows, step]
            x_nB = trigger(x_nB, (poisoned_nB & (group_N[rows, None] == number)).reshape(-1))
        return x_nB.view(*index_nB.shape, *x.shape[1:]), labels_NSB[rows, step], weight_NSB[rows, step]

    return batch_source


def _room(rooms: threading.local, x: Tensor, count: int) -> Tensor:
    """Return this thread's buffer for ``count`` samples."""
    room: Tensor | None = getattr(rooms, "x", None)
    if room is None or len(room) < count:
        room = rooms.x = x.new_empty(count, *x.shape[1:])
    return room[:count]
