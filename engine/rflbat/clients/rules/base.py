"""The interface of a local rule: a change to the local training of a group of clients.

Axes: n clients of a chunk, D parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

GradientRule = Callable[[Tensor, Tensor, Tensor], None]
"""``gradient(gradient_nD, params_nD, start_nD)`` changes the gradients in place, before clipping and weight decay."""

Projection = Callable[[Tensor, Tensor, int], None]
"""``project(params_nD, start_nD, step)`` changes the parameters in place, after local step ``step``, from 0."""


@dataclass(frozen=True)
class LocalRule:
    """A change to every local step: of the honest clients (``--local-rule``) or of the malicious ones.

    Both functions work on flat rows, so that one rule serves all back ends. ``start_nD`` are the global parameters with
    which the round began; it may be an expanded view and must not be written to.

    Args:
        name: registry name.
        gradient: changes the gradients of the batch loss in place, such as by the gradient of a further loss term.
        project: changes the parameters in place after a step, such as by a projection.
        moves_only: whether both read the parameters only through ``params_nD - start_nD``, and give 0 where that and
            the gradient are 0. If so, text models train only the rows of the embedding that a client's texts touch;
            otherwise all of them.
    """

    name: str
    gradient: GradientRule | None = None
    project: Projection | None = None
    moves_only: bool = False
