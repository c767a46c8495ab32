"""What a model is: the shapes of its parameters and two pure functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from rflbat.parameters import Layout


@dataclass(frozen=True)
class Model:
    """A functional model that can be vmapped over clients.

    Args:
        name: registry name.
        layout: names and shapes of the parameters.
        init: numpy generator -> flat start vector ``(D,)`` float32.
        apply: (named parameters, ``x`` of shape ``(B, *sample)``) -> logits ``(B, C)``; pure, no Python branch on
            values, so that ``torch.func.vmap`` and ``torch.func.grad`` go through it.
    """

    name: str
    layout: Layout
    init: Callable[[np.random.Generator], Tensor]
    apply: Callable[[Mapping[str, Tensor], Tensor], Tensor]
