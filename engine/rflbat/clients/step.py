"""Shared parts of local training: the loss of one client's batch, and the batch source.

Axes: n clients of a chunk, S local steps, B batch.
"""

import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rflbat.attacks.base import Trigger
from rflbat.attacks.labels import Poison
from rflbat.clients.batches import Batches
from rflbat.models.base import Gradients, Model
from rflbat.randomness import hashed

BatchSource = Callable[[slice | Tensor, int], tuple[Tensor, ...]]
"""``batch_source(rows, step)`` returns ``x (n, B, *sample)``, labels ``(n, B)`` and sample weights ``(n, B)`` of the
clients, and, for a model that draws, their keys ``(n,)``. Rows are a slice, or int64 positions on the device. The next
call from the same thread may overwrite ``x``."""

Gradient = Callable[..., Gradients]
"""``gradient(named (n, ...), x (n, B, *sample), labels (n, B), weights (n, B), keys (n,) or nothing)`` returns the
gradient of each client's batch loss for the trained parameters, and writes the carried tensors in ``named``."""


def batch_loss(model: Model) -> Callable[[Mapping[str, Tensor], Tensor, Tensor, Tensor], Tensor]:
    """Return the loss of one client's batch by ``Model.apply``, for a model without ``train_apply``.

    Args:
        model: functional model.

    Returns:
        pure function (parameters, x_B, labels_B, weight_B) -> scalar.
    """
    apply, loss_of, constants = model.apply, model.loss, model.constants

    def loss(parameters: Mapping[str, Tensor], x: Tensor, labels_B: Tensor, weight_B: Tensor) -> Tensor:
        named = {**parameters, **constants} if constants else parameters
        return loss_of(apply(named, x), labels_B, weight_B)

    return loss


Named = Mapping[str, Tensor]
CarryingLoss = Callable[[Named, Named, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, dict[str, Tensor]]]


def carrying_loss(model: Model) -> CarryingLoss:
    """Return the loss of one client's batch by ``Model.train_apply``, together with the new carried tensors.

    Args:
        model: functional model with ``train_apply``.

    Returns:
        pure function (trained, carried, x_B, labels_B, weight_B, key) -> (scalar, name -> carried tensor).

    Raises:
        ValueError: the model has no ``train_apply``; or, from that function, it does not return the carried tensors.
    """
    if model.train_apply is None:
        raise ValueError(f"model '{model.name}' has no train_apply")
    train_apply, carried_names = model.train_apply, set(model.layout.carried)

    def loss(
        trained: Named, carried: Named, x: Tensor, labels_B: Tensor, weight_B: Tensor, key: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits, after = train_apply({**trained, **carried, **model.constants}, x, weight_B, key)
        if set(after) != carried_names:
            raise ValueError(f"`train_apply` returned {sorted(after)}, but the layout carries {sorted(carried_names)}")
        return model.loss(logits, labels_B, weight_B), after

    return loss


def split_named(model: Model, named: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split named tensors into the trained and the carried ones.

    Args:
        model: functional model.
        named: views by its layout.

    Returns:
        the two mappings.
    """
    layout = model.layout
    return {name: named[name] for name in layout.shapes}, {name: named[name] for name in layout.carried}


def with_keys(batch_source: BatchSource, key_N: Tensor | None) -> BatchSource:
    """Add to the batches the keys from which a model draws, another one for each client and step.

    Args:
        batch_source: batches of the round.
        key_N: int64, drawn key of each client of the round; None: the model does not draw.

    Returns:
        the batch source, with keys behind the weights.
    """
    if key_N is None:
        return batch_source

    def keyed(rows: slice | Tensor, step: int) -> tuple[Tensor, ...]:
        return (*batch_source(rows, step), hashed(key_N[rows], step))

    return keyed


def make_batch_source(
    x: Tensor,
    labels: Tensor,
    batches: Batches,
    triggers: tuple[Trigger, ...],
    group_N: Tensor,
    target: int,
    poison: Poison | None = None,
    augment: Callable[[Tensor, slice | Tensor, int], Tensor] | None = None,
) -> BatchSource:
    """Build the source that gathers batches on the device and stamps and relabels their poisoned samples.

    Samples are augmented before they are stamped, so a trigger lies where it lies at test time.

    Args:
        x: all training samples as floats, on the device.
        labels: all training labels, int64, on the device.
        batches: the round's batches, on the device.
        triggers: one per group of malicious clients (one group unless the backdoor is distributed).
        group_N: int64, the group whose trigger each client stamps.
        target: label of the poisoned samples.
        poison: labels and eligibility of each training sample; None: all get the target.
        augment: change of the clean samples, as ``rflbat.data.augment.Augment``; None: none.

    Returns:
        the batch source.
    """
    index_NSB, weight_NSB, poisoned_NSB = batches.index_NSB, batches.weight_NSB, batches.poisoned_NSB
    if poison is None:
        labels_NSB = labels[index_NSB].masked_fill_(poisoned_NSB, target)
    else:
        poisoned_NSB = poisoned_NSB & poison.eligible_n[index_NSB]
        labels_NSB = torch.where(poisoned_NSB, poison.label_n[index_NSB], labels[index_NSB])
    # All batches of a thread reuse one buffer: on a CPU fresh pages cost as much as the gather.
    rooms = threading.local()

    def batch_source(rows: slice | Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        index_nB = index_NSB[rows, step]
        x_nB = torch.index_select(x, 0, index_nB.reshape(-1), out=_room(rooms, x, index_nB.numel()))
        if augment is not None:
            x_nB = augment(x_nB, rows, step)
        for number, trigger in enumerate(triggers):
            poisoned_nB = poisoned_NSB[rows, step]
            x_nB = trigger(x_nB, (poisoned_nB & (group_N[rows, None] == number)).reshape(-1))
        return x_nB.view(*index_nB.shape, *x.shape[1:]), labels_NSB[rows, step], weight_NSB[rows, step]

    return batch_source


def _room(rooms: threading.local, x: Tensor, count: int) -> Tensor:
    """Return this thread's buffer for ``count`` samples."""
    room: Tensor | None = getattr(rooms, "x", None)
    if room is None or len(room) < count:
        room = rooms.x = x.new_empty(count, *x.shape[1:])
    return room[:count]
