"""Back end ``vmap``: autograd of all clients of a chunk as one tensor program."""

from collections.abc import Mapping

import torch
from torch import Tensor

from rflbat.clients.step import Gradient, batch_loss, carrying_loss, split_named
from rflbat.models.base import Gradients, Model


def gradient(model: Model) -> Gradient:
    """Return ``vmap(grad(loss))``: a step of n clients, each with its own parameters, is one batched product.

    Args:
        model: functional model.

    Returns:
        function of a chunk's parameters and batches.
    """
    if model.train_apply is not None:
        return _carrying(model)
    of_chunk = torch.func.vmap(torch.func.grad(batch_loss(model)))

    def gradients(named: Mapping[str, Tensor], x_nB: Tensor, labels_nB: Tensor, weight_nB: Tensor) -> Gradients:
        found: Gradients = of_chunk(named, x_nB, labels_nB, weight_nB)
        return found

    return gradients


def _carrying(model: Model) -> Gradient:
    """Return the gradient of a model with ``train_apply``; it also writes the carried tensors of the chunk."""
    of_client = torch.func.grad(carrying_loss(model), has_aux=True)
    of_chunk = torch.func.vmap(of_client, in_dims=(0, 0, 0, 0, 0, 0 if model.draws else None))

    def gradients(
        named: Mapping[str, Tensor], x_nB: Tensor, labels_nB: Tensor, weight_nB: Tensor, key_n: Tensor | None = None
    ) -> Gradients:
        trained, carried = split_named(model, named)
        found: Gradients
        found, after = of_chunk(trained, carried, x_nB, labels_nB, weight_nB, key_n)
        for name, value in after.items():
            carried[name].copy_(value)
        return found

    return gradients


def refusal(model: Model, sample: Tensor) -> str:
    """Try a step of two clients on the CPU, on parameters and samples of zeros.

    Args:
        model: functional model that runs for one client.
        sample: one sample, for its shape and dtype.

    Returns:
        the reason why ``torch.func.vmap`` cannot transform the model; "" if it can.
    """
    model = model.to("cpu")
    shape = (2, 2, *sample.shape)
    labels_nB = torch.zeros(2, 2, *model.label_shape, dtype=torch.int64)
    batch = [torch.zeros(shape, dtype=sample.dtype), labels_nB, torch.ones(2, 2)]
    if model.draws:
        batch.append(torch.zeros(2, dtype=torch.int64))
    try:
        gradient(model)(model.layout.views(torch.zeros(2, model.layout.size)), *batch)
    except (RuntimeError, NotImplementedError) as error:
        return str(error).partition("\n")[0].partition(". ")[0]
    return ""
