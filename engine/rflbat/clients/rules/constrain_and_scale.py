"""Constrain-and-scale: the attacker trains its backdoor and a small distance to the global model at once.

Axes: n clients of a chunk, D parameters.
"""

import torch
from torch import Tensor

from rflbat.clients.rules.base import LocalRule
from rflbat.errors import UserError, nearest

DISTANCES = ("norm", "squared", "cosine")


def _norm(params_nD: Tensor, start_nD: Tensor) -> Tensor:
    """Return the gradient of ``||p - start||``, 0 at the start."""
    return torch.nn.functional.normalize(params_nD - start_nD, dim=1, eps=1e-12)


def _squared(params_nD: Tensor, start_nD: Tensor) -> Tensor:
    """Return the gradient of ``||p - start||^2``."""
    return 2 * (params_nD - start_nD)


def _cosine(params_nD: Tensor, start_nD: Tensor) -> Tensor:
    """Return the gradient of ``1 - <p, start> / (||p|| ||start||)``, 0 if either is 0."""
    unit_nD, other_nD = (torch.nn.functional.normalize(each, dim=1) for each in (params_nD, start_nD))
    along_n1 = (unit_nD * other_nD).sum(1, keepdim=True)
    norm_n1 = torch.linalg.vector_norm(params_nD, dim=1, keepdim=True)
    return torch.where(norm_n1 > 0, (unit_nD * along_n1 - other_nD) / norm_n1, 0)


def constrain_and_scale(*, alpha: float = 0.7, distance: str = "norm") -> LocalRule:
    """Train on ``alpha * L_class + (1 - alpha) * L_distance`` instead of the loss of the batch alone.

    ``L_distance`` is a distance between the local and the global parameters. Its gradient takes part in every step. The
    scaling is that of the experiment (``--scale``).

    Args:
        alpha: weight of the batch loss, above 0, at most 1 (0.7).
        distance: ``norm`` (``||p - start||``, as in the paper's code), ``squared`` (``||p - start||^2``) or ``cosine``
            (1 minus the cosine of the two parameter vectors).

    Returns:
        the rule.

    Raises:
        UserError: a value is out of range.

    Example:
        >>> gradient = torch.tensor([[1.0, 1.0]])
        >>> rule = constrain_and_scale(alpha=0.5, distance="squared")
        >>> rule.gradient(gradient, torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
        >>> gradient
        tensor([[1.5000, 0.5000]])

    Source: Bagdasaryan et al. 2020, "How to backdoor federated learning", section 4.3, equation 4.
    """
    if not 0 < alpha <= 1:
        raise UserError(f"local rule 'constrain_and_scale': alpha={alpha} is out of range; allowed: above 0, at most 1")
    if distance not in DISTANCES:
        raise UserError(
            f"local rule 'constrain_and_scale': distance={distance!r}{nearest(distance, DISTANCES)}; "
            f"allowed: {', '.join(DISTANCES)}"
        )
    slope = {"norm": _norm, "squared": _squared, "cosine": _cosine}[distance]

    def gradient(gradient_nD: Tensor, params_nD: Tensor, start_nD: Tensor) -> None:
        gradient_nD.mul_(alpha).add_(slope(params_nD, start_nD), alpha=1 - alpha)

    return LocalRule("constrain_and_scale", gradient=gradient, moves_only=distance != "cosine")
