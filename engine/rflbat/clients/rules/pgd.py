"""Projected gradient descent: local training stays in a ball around the global model.

Axes: n clients of a chunk, D parameters.
"""

import math

import torch
from torch import Tensor

from rflbat.clients.rules.base import LocalRule
from rflbat.errors import UserError


def pgd(*, radius: float, every: int = 1, relative: bool = False) -> LocalRule:
    """Project the parameters onto the ball ``||p - start|| <= radius`` during local training.

    ``p <- start + (p - start) * min(1, radius / ||p - start||)``. A malicious client that trains this way sends an
    update of at most this norm, which a bound on norms does not see.

    Args:
        radius: largest L2 norm of the move, finite and above 0. It depends on model and data, so there is no default;
            published values are 0.083 (CIFAR-10), 0.25 and 10.
        every: steps between projections, at least 1. The last step of a client is followed by a projection only if its
            number is a multiple.
        relative: whether ``radius`` is a share of ``||start||``.

    Returns:
        the rule.

    Raises:
        UserError: a value is out of range.

    Example:
        >>> params = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
        >>> pgd(radius=1.0).project(params, torch.zeros(2, 2), 0)
        >>> params
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])

    Source: Wang et al. 2020, "Attack of the tails: Yes, you really can backdoor federated learning", section 3.2.
    """
    if not 0 < radius < math.inf:
        raise UserError(f"local rule 'pgd': radius={radius} is out of range; allowed: finite numbers above 0")
    if every < 1:
        raise UserError(f"local rule 'pgd': every={every} is out of range; allowed: at least 1")

    def project(params_nD: Tensor, start_nD: Tensor, step: int) -> None:
        if (step + 1) % every:
            return
        move_nD = params_nD - start_nD
        norm_n1 = torch.linalg.vector_norm(move_nD, dim=1, keepdim=True)
        bound = radius * torch.linalg.vector_norm(start_nD, dim=1, keepdim=True) if relative else radius
        inside_n1 = norm_n1 <= bound
        torch.add(start_nD, move_nD.mul_(bound / norm_n1), out=move_nD)
        torch.where(inside_n1, params_nD, move_nD, out=params_nD)

    return LocalRule("pgd", project=project, moves_only=not relative)
