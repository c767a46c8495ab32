"""Back end ``vmap``: a chunk of clients at a time as one tensor program.

Axes: N clients of the round, n clients of a chunk, D parameters.
"""

import torch
from torch import Tensor

from rflbat.clients.step import SGD, Feed, batch_loss, local_buffers
from rflbat.models.base import Model


def train(params_ND: Tensor, model: Model, feed: Feed, sgd: SGD, *, chunk: int) -> None:
    """Train every client in place, ``chunk`` clients per tensor program.

    ``vmap(grad(loss))`` over the clients of a chunk; each client has its own parameters, so a step is one batched
    product instead of n small ones. The chunk bounds memory and changes nothing else.

    Args:
        params_ND: start parameters on entry, trained ones on return; rows may differ.
        model: functional model.
        feed: batches of the round.
        sgd: optimizer and number of local steps.
        chunk: clients per program, at least 1.
    """
    gradients = torch.func.vmap(torch.func.grad(batch_loss(model)))
    for first in range(0, len(params_ND), chunk):
        rows = slice(first, first + chunk)
        named, velocity = local_buffers(model.layout, params_ND[rows], sgd)
        for step in range(sgd.steps):
            for name, gradient in gradients(named, *feed(rows, step)).items():
                sgd.apply(named[name], gradient, velocity[name])
