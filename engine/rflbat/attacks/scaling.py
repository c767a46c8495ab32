"""Scaling of malicious updates (model replacement).

Axes: M malicious clients of the round, D parameters.
"""

from torch import Tensor

from rflbat.attacks.base import Tamper
from rflbat.attacks.view import AttackerView
from rflbat.randomness import Draw


def scaling(factor: float) -> Tamper | None:
    """Multiply every malicious update: ``d_i <- factor * d_i``.

    Args:
        factor: lambda; 1 leaves the updates unchanged. The paper uses 1 and 100.

    Returns:
        the tampering function; None for a factor of 1.

    Example:
        >>> import torch
        >>> view, draw = AttackerView("pixel", "own", 2, 1), None
        >>> scaling(100.0)(torch.ones(1, 1), view, draw).tolist()
        [[100.0]]

    Source: Bagdasaryan et al. 2020, "How to backdoor federated learning", section 4.2.
    """
    if factor == 1:
        return None

    def tamper(own_MD: Tensor, view: AttackerView, draw: Draw) -> Tensor:
        return own_MD.mul_(factor)

    return tamper
