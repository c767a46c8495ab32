"""The interface of a model: the shapes of its parameters and two pure functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rflbat.parameters import Layout

Gradients = dict[str, Tensor]
"""Name of a parameter -> gradient, with a leading axis n of clients."""


@dataclass(frozen=True)
class Model:
    """A functional model that can be vmapped over clients.

    Args:
        name: registry name.
        layout: names and shapes of the parameters.
        init: numpy generator -> flat initial parameters ``(D,)`` float32.
        apply: (named parameters, ``x`` of shape ``(B, *sample)``) -> logits ``(B, C)``. It must be pure and must not
            branch on values in Python, so that ``torch.func.vmap`` and ``torch.func.grad`` can transform it.
        cpu_backend: the back end measured fastest on a CPU (``benchmarks/speed``).
        gradient: analytic gradient of the batch loss of ``clients.step.batch_loss`` for a chunk of clients: (named
            parameters ``(n, ...)``, ``x (n, B, *sample)``, labels ``(n, B)``, sample weights ``(n, B)``) -> gradients.
            None: autograd.
        embedding: name of the embedding parameter, whose rows the token ids of a sample select; "" if there is none.
            Training changes no row that is not selected.
        with_rows: number of rows -> the same model with an embedding of that many rows.
    """

    name: str
    layout: Layout
    init: Callable[[np.random.Generator], Tensor]
    apply: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    cpu_backend: str = "vmap"
    gradient: Callable[[Mapping[str, Tensor], Tensor, Tensor, Tensor], Gradients] | None = None
    embedding: str = ""
    with_rows: "Callable[[int], Model] | None" = None


def uniform_start(layout: Layout, bounds: Mapping[str, float], stream: np.random.Generator) -> Tensor:
    """Draw each parameter uniformly from ``[-bound, bound]``.

    Args:
        layout: names and shapes.
        bounds: name -> bound.
        stream: random stream.

    Returns:
        flat initial parameters ``(D,)`` float32.
    """
    drawn = [bounds[name] * stream.uniform(-1, 1, shape) for name, shape in layout.shapes.items()]
    return torch.from_numpy(np.concatenate([each.ravel() for each in drawn]).astype(np.float32))
