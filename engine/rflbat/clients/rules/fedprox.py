"""FedProx: a proximal term keeps local training close to the global model.

Axes: n clients of a chunk, D parameters.
"""

import math

from torch import Tensor

from rflbat.clients.rules.base import LocalRule
from rflbat.errors import UserError


def fedprox(*, mu: float = 0.01) -> LocalRule:
    """Add ``mu / 2 * ||p - start||^2`` to the loss of every batch.

    Its gradient is ``mu * (p - start)``.

    Args:
        mu: weight of the proximal term, at least 0 and finite (0.01; the paper uses 0.001 to 1).

    Returns:
        the rule.

    Raises:
        UserError: mu is out of range.

    Example:
        >>> import torch
        >>> gradient = torch.zeros(1, 2)
        >>> fedprox(mu=0.5).gradient(gradient, torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]]))
        >>> gradient
        tensor([[1., 0.]])

    Source: Li et al. 2020, "Federated optimization in heterogeneous networks", equation 2.
    """
    if not 0 <= mu < math.inf:
        raise UserError(f"local rule 'fedprox': mu={mu} is out of range; allowed: finite numbers of at least 0")

    def gradient(gradient_nD: Tensor, params_nD: Tensor, start_nD: Tensor) -> None:
        gradient_nD.add_(params_nD - start_nD, alpha=mu)

    return LocalRule("fedprox", gradient=gradient, moves_only=True)
