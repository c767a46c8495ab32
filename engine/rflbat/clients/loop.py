"""Back end ``loop``: plain autograd, one client at a time. It is the reference for the other back ends."""

from collections.abc import Mapping

import torch
from torch import Tensor

from rflbat.clients.step import Gradient, Named, batch_loss, carrying_loss, split_named
from rflbat.models.base import Gradients, Model


def gradient(model: Model) -> Gradient:
    """Return a chunk's gradient that runs client by client, each with the fused kernels for a single model.

    Args:
        model: functional model.

    Returns:
        function of a chunk's parameters and batches.
    """
    if model.train_apply is not None:
        return _carrying(model)
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
        return _of_chunk(list(named), found)

    return gradients


def _of_chunk(names: list[str], found: list[list[Tensor]]) -> Gradients:
    """Stack the gradients of all clients."""
    if len(found) == 1:
        return {name: value[None] for name, value in zip(names, found[0], strict=True)}
    return {name: torch.stack(each) for name, each in zip(names, zip(*found, strict=True), strict=True)}


def _carrying(model: Model) -> Gradient:
    """Return the gradient of a model with ``train_apply``; it also writes the carried tensors of the chunk."""
    loss = carrying_loss(model)

    def of_client(
        trained: Named, carried: Named, x: Tensor, labels_B: Tensor, weight_B: Tensor, key: Tensor | None
    ) -> list[Tensor]:
        leaves = {name: value.detach().requires_grad_() for name, value in trained.items()}
        with torch.enable_grad():
            value, after = loss(leaves, carried, x, labels_B, weight_B, key)
        gradients = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        for name, new in after.items():
            carried[name].copy_(new.detach())
        return list(gradients)

    def gradients(
        named: Mapping[str, Tensor], x_nB: Tensor, labels_nB: Tensor, weight_nB: Tensor, key_n: Tensor | None = None
    ) -> Gradients:
        trained, carried = split_named(model, named)
        found = []
        for client in range(len(x_nB)):
            own, held = ({name: value[client] for name, value in part.items()} for part in (trained, carried))
            key = None if key_n is None else key_n[client]
            found.append(of_client(own, held, x_nB[client], labels_nB[client], weight_nB[client], key))
        return _of_chunk(list(trained), found)

    return gradients
