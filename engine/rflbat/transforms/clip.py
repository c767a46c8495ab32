"""Clipping of every update to a largest norm.

Axes: N clients of the round.
"""

import math

import torch

from rflbat.defenses.base import Updates
from rflbat.errors import UserError
from rflbat.randomness import Draw
from rflbat.transforms.base import Transform, Transformed, transformed
from rflbat_kernels import masked_median


def clip(*, c: float | str = "median") -> Transform:
    """Scale every update down to a norm of at most c: ``d_i * min(1, c / ||d_i||)``.

    Args:
        c: largest L2 norm, finite and above 0, or "median": the median of the finite updates' norms.

    Returns:
        the transform.

    Raises:
        UserError: c is out of range.

    Conventions:
        The weights of a decision are those of the clipped updates.

    Needs:
        The norms of the updates.

    Fails:
        Against updates of ordinary norm in a bad direction.

    Example:
        >>> import rflbat, numpy
        >>> rflbat.aggregate(numpy.array([[6.0, 8.0]]), "fedavg", before="clip(c=5)").update.tolist()
        [3.0, 4.0]

    Source: Sun et al. 2019, "Can you really backdoor federated learning?", section 4.
    """
    if c != "median" and not (isinstance(c, float | int) and 0 < c < math.inf):
        raise UserError(f"transform 'clip': c={c!r} is out of range; allowed: finite numbers above 0, or 'median'")

    def apply(updates: Updates, draw: Draw) -> Transformed:
        norms_N = updates.norms_N
        bound = masked_median(norms_N, updates.valid_N) if isinstance(c, str) else c
        factor_N = torch.where(norms_N > bound, bound / norms_N, 1)
        factor_N = torch.where(updates.valid_N, factor_N, 0)
        own_N = torch.arange(len(norms_N), device=norms_N.device)
        return transformed(updates, factor_N.diag(), updates.valid_N, own_N, updates.sizes_N, scaled=True)

    return Transform("clip", apply)
