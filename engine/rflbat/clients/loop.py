"""Back end ``loop``: plain autograd, one client at a time. It is the reference for the other back ends."""

from collections.abc import Mapping

import torch
from torch import Tensor

from rflbat.clients.step import Gradient, batch_loss
from rflbat.models.base import Gradients, Model


def gradient(model: Model) -> Gradient:
    """Return a chunk's gradient that runs client by client, each with the fused kernels for a single model.

    Args:
        model: functional model.

    Returns:
        function of a chunk's parameters and batches.
    """
    loss = batch_loss(model)

    def of_client(named: Mapping[str, Tensor], x_B: Tensor, labels_B: Tensor, weight_B: Tensor) -> list[Tensor]:
        leaves = {name: value.detach().requires_grad_() for name, value in named.items()}
        with torch.enable_grad():
            value = loss(leaves, x_B, labels_B, weight_B)
        return list(torch.autograd.grad(value, list(leaves.values()), materialize_grads=True))

    def gradients(named: Mapping[str, Tensor], x_nB: Tensor, labels_nB: Tensor, weight_nB: Tensor) -> Gradients:
        found = [
            of_client({name: value[client] for name, value in named.items()}, *batch)
            for client, batch in enumerate(zip(x_nB, labels_nB, weight_nB, strict=True))
        ]
        if len(found) == 1:
            return {name: value[None] for name, value in zip(named, found[0], strict=True)}
        return {name: torch.stack(each) for name, each in zip(named, zip(*found, strict=True), strict=True)}

    return gradients
