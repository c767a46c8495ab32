"""Back end ``loop``: one client at a time, the debugger and the check on the other back ends.

Axes: N clients of the round, D parameters.
"""

import torch
from torch import Tensor

from rflbat.clients.step import SGD, Feed, batch_loss, local_buffers
from rflbat.models.base import Model


def train(params_ND: Tensor, model: Model, feed: Feed, sgd: SGD) -> None:
    """Train every client in place, one after another, by the same pure functions as ``vmap``.

    Args:
        params_ND: start parameters on entry, trained ones on return; rows may differ.
        model: functional model.
        feed: batches of the round.
        sgd: optimizer and number of local steps.

    Raises:
        RuntimeError: a step failed; the message names the client, the step and the shapes.
    """
    gradients = torch.func.grad(batch_loss(model))
    for client in range(len(params_ND)):
        named, velocity = local_buffers(model.layout, params_ND[client], sgd)
        for step in range(sgd.steps):
            x_1B, labels_1B, weight_1B = feed(slice(client, client + 1), step)
            try:
                computed = gradients(named, x_1B[0], labels_1B[0], weight_1B[0])
            except RuntimeError as error:
                shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
                where = f"client {client} of the round, step {step}, batch {tuple(x_1B.shape[1:])}, parameters {shapes}"
                raise RuntimeError(f"{where}: {error}") from error
            for name, gradient in computed.items():
                sgd.apply(named[name], gradient, velocity[name])
