"""The memory model of local training and of a round."""

import math

import torch
from torch.autograd.graph import saved_tensors_hooks

from rflbat.clients.step import batch_loss
from rflbat.models.base import Model


def activation_bytes(model: Model, sample: tuple[int, ...]) -> int:
    """Count what autograd keeps of one sample between the forward and the backward pass.

    The batch loss is run on the meta device, which computes nothing, for one sample and for two; what the second adds
    belongs to a sample, what is left to the parameters.

    Args:
        model: functional model.
        sample: shape of one sample.

    Returns:
        bytes, without the sample itself.
    """
    one, two = (_saved_bytes(model, sample, batch) for batch in (1, 2))
    return two - one


def _saved_bytes(model: Model, sample: tuple[int, ...], batch: int) -> int:
    """Sum the distinct tensors that autograd saves for a batch, parameters included."""
    flat = torch.empty(model.layout.size, device="meta", requires_grad=True)
    kind = torch.int64 if model.table else torch.float32
    x = torch.zeros(batch, *sample, dtype=kind, device="meta")
    labels_B = torch.zeros(batch, dtype=torch.int64, device="meta")
    seen: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        seen[id(tensor.untyped_storage())] = tensor
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        batch_loss(model)(model.layout.views(flat), x, labels_B, torch.ones(batch, device="meta"))
    return sum(math.prod(tensor.shape) * tensor.element_size() for tensor in seen.values())


def bytes_per_client(model: Model, sample: tuple[int, ...], batch: int, copies: int = 4) -> int:
    """Say what one client of a chunk holds while it trains.

    ``4 * copies * D + B * (4 F + 2 A)`` bytes: what the optimizer holds of D parameters; the batch of F numbers a
    sample, and the activations A of a sample with as much again for their gradients.

    Args:
        model: functional model.
        sample: shape of one sample.
        batch: batch size B.
        copies: numbers held for each parameter, ``Optimizer.copies``.

    Returns:
        bytes.
    """
    return 4 * copies * model.layout.size + batch * (4 * math.prod(sample) + 2 * activation_bytes(model, sample))
