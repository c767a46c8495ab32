"""Back end ``vmap``: autograd of all clients of a chunk as one tensor program."""

from collections.abc import Mapping

import torch
from torch import Tensor

from rflbat.clients.step import Gradient, batch_loss
from rflbat.models.base import Gradients, Model


def gradient(model: Model) -> Gradient:
    """Return ``vmap(grad(loss))``: a step of n clients, each with its own parameters, is one batched product.

    Args:
        model: functional model.

    Returns:
        function of a chunk's parameters and batches.
    """
    of_chunk = torch.func.vmap(torch.func.grad(batch_loss(model)))

    def gradients(named: Mapping[str, Tensor], x_nB: Tensor, labels_nB: Tensor, weight_nB: Tensor) -> Gradients:
        found: Gradients = of_chunk(named, x_nB, labels_nB, weight_nB)
        return found

    return gradients
