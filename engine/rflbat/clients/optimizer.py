"""The clients' optimizer on the flat parameters of a chunk of clients; its state starts fresh in every round.

Axes: n clients of a chunk, D parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rflbat.clients.rules.base import LocalRule
from rflbat.models.base import Gradients
from rflbat.parameters import Layout

Step = Callable[[Gradients], None]
"""``step(gradients)`` moves the parameters of a chunk once, in place. It does not write to the gradients."""


@dataclass(frozen=True)
class Optimizer:
    """The optimizer of every client, and its number of local steps per round.

    ``sgd`` is torch.optim.SGD without dampening: ``g <- g + weight_decay * p``; ``v <- momentum * v + g``; ``p <- p -
    lr * v``. ``adam`` is torch.optim.Adam with its defaults, betas 0.9 and 0.999 and eps 1e-8. Before either,
    ``clip_norm`` scales the gradient of each client, over all parameters together, to at most this L2 norm, as
    torch.nn.utils.clip_grad_norm_ does. Velocities and moments start at zero in every round.

    Args:
        steps: local steps, at least 1.
        lr: learning rate, above 0.
        momentum: momentum of ``sgd``, at least 0 and below 1.
        weight_decay: at least 0; added to the gradient after clipping.
        name: "sgd" or "adam".
        clip_norm: largest L2 norm of a client's gradient, above 0; None disables clipping.
        rule: changes the gradient before it is clipped, and the parameters after a step; None for plain training.
        ragged: whether some clients take fewer steps than ``steps``. A step without samples then leaves a client as it
            is.

    Example:
        >>> layout = Layout({"weight": (2,)})
        >>> params_nD = torch.ones(1, 2)
        >>> Optimizer(steps=1, lr=0.5).start(layout, params_nD)({"weight": torch.tensor([[1.0, 2.0]])})
        >>> params_nD
        tensor([[0.5000, 0.0000]])

    Source: Kingma and Ba 2015 (Adam); Pascanu et al. 2013 (clipping by norm).
    """

    steps: int
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    name: str = "sgd"
    clip_norm: float | None = None
    rule: LocalRule | None = None
    ragged: bool = False

    @property
    def copies(self) -> int:
        """Largest count of numbers per parameter that a client holds while it trains, without activations.

        These are its copy, gradient and velocity, and either its own initial parameters or a temporary of weight decay;
        the flat rows, if gradients are joined into them; a second moment for Adam; and a temporary of a local rule
        or of ``ragged`` steps.
        """
        return 4 + self._flat + (self.name == "adam") + (self.rule is not None) + self.ragged

    @property
    def _flat(self) -> bool:
        ruled = self.rule is not None and self.rule.gradient is not None
        return ruled or self.name == "adam" or self.clip_norm is not None

    def start(self, layout: Layout, params_nD: Tensor, start_nD: Tensor | None = None) -> Step:
        """Begin the local training of a chunk of clients.

        Args:
            layout: names of the D columns; carried columns do not move.
            params_nD: contiguous; every step writes to it.
            start_nD: the parameters with which the round began, for ``rule``; not written to.

        Returns:
            function that takes one step; ``rule.project`` is not part of it.
        """
        layout, params_nD = layout.trained_part, params_nD[:, : layout.trained]
        start_nD = None if start_nD is None else start_nD[:, : layout.trained]
        if self._flat:
            return self._on_rows(layout, params_nD, start_nD)
        named = layout.views(params_nD)
        velocity = dict(layout.views(torch.zeros_like(params_nD))) if self.momentum else dict.fromkeys(named)

        def step(gradients: Gradients) -> None:
            for name, gradient in gradients.items():
                self._descend(named[name], gradient, velocity[name])

        return step

    def _on_rows(self, layout: Layout, params_nD: Tensor, start_nD: Tensor | None) -> Step:
        """Join the gradients into flat rows first: for a rule, a norm over all parameters, or Adam in one pass."""
        change = None if self.rule is None else self.rule.gradient
        gradient_nD = torch.empty_like(params_nD, memory_format=torch.contiguous_format)
        rows = layout.views(gradient_nD)
        adam = velocity_nD = None
        own_nD = params_nD.contiguous()  # a copy only beside carried columns: the fused kernel takes no strides
        if self.name == "adam":
            # Capturable, because a round on CUDA may be captured as a graph.
            adam = torch.optim.Adam(
                [own_nD], self.lr, weight_decay=self.weight_decay, capturable=params_nD.is_cuda, fused=True
            )
            own_nD.grad = gradient_nD
        elif self.momentum:
            velocity_nD = torch.zeros_like(params_nD)

        def step(gradients: Gradients) -> None:
            for name, gradient in gradients.items():
                rows[name].copy_(gradient)
            if change is not None and start_nD is not None:
                change(gradient_nD, params_nD, start_nD)
            if self.clip_norm is not None:
                norm_n1 = torch.linalg.vector_norm(gradient_nD, dim=1, keepdim=True)
                gradient_nD.mul_((self.clip_norm / (norm_n1 + 1e-6)).clamp_max(1))
            if adam is None:
                self._descend(params_nD, gradient_nD, velocity_nD)
            elif own_nD is params_nD:
                adam.step()
            else:
                own_nD.copy_(params_nD)
                adam.step()
                params_nD.copy_(own_nD)

        return step

    def _descend(self, params: Tensor, gradient: Tensor, velocity: Tensor | None) -> None:
        """Take one step of SGD in place. The gradient is not written to, since two parameters may share one tensor."""
        if self.weight_decay:
            gradient = gradient.add(params, alpha=self.weight_decay)
        if velocity is not None:
            gradient = velocity.mul_(self.momentum).add_(gradient)
        params.sub_(gradient, alpha=self.lr)
