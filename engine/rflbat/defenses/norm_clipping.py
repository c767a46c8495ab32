"""Norm clipping, optionally with Gaussian noise (weak differential privacy).

Axes: N clients of the round, D parameters.
"""

import math

import torch
from torch import Tensor

from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.errors import UserError
from rflbat.randomness import Draw
from rflbat_kernels import masked_median
from rflbat_kernels.sharding import all_columns, own_columns


def normals(draw: Draw, count: int) -> Tensor:
    """Draw standard normal numbers: ``sqrt(-2 ln(1 - u)) (cos 2 pi v, sin 2 pi v)`` from uniforms u, v.

    Args:
        draw: source of uniforms.
        count: number of normals.

    Returns:
        ``(count,)`` float64.

    Source: Box and Muller 1958.
    """
    radius, turns = draw(2, (count + 1) // 2)
    radius = torch.sqrt(-2 * torch.log1p(-radius))
    return torch.cat([radius * torch.cos(2 * math.pi * turns), radius * torch.sin(2 * math.pi * turns)])[:count]


def norm_clipping(*, bound: float | None = None, noise: float = 0.0) -> Defense:
    """Average the updates after clipping their norms, optionally adding Gaussian noise.

    ``update = sum w_i d_i / max(1, ||d_i|| / M) + noise z`` with ``w_i = n_i / sum n`` and z standard normal. The
    decision's weights are the ``w_i`` and sum to 1: a client contributes its weight times its CLIPPED update. Only
    non-finite updates are dropped.

    Args:
        bound: M, the largest norm that is not clipped, above 0. Default: the median norm of the round's updates.
        noise: standard deviation of the noise of each coordinate, at least 0 (0: no noise is drawn).

    Returns:
        the defense. Its score is the norm ``||d_i||``, +inf for a non-finite update.

    Raises:
        UserError: a value is out of range.

    Conventions:
        The bound is the median norm of the round unless it is given. Noise is added once, to the mean.

    Needs:
        The norms, by one pass over the matrix, and one weighted sum.

    Fails:
        Against a backdoor that needs no large update: it bounds a client's influence per round and drops no client. The
        noise gives no privacy guarantee, since there is no privacy accountant.

    Example:
        >>> import rflbat, numpy
        >>> rflbat.aggregate(numpy.array([[3.0, 4.0], [30.0, 40.0]]), "norm_clipping", bound=5).update.tolist()
        [3.0, 4.0]

    Source: Sun, Kairouz, Suresh and McMahan 2019, section 4.
    """
    if bound is not None and not 0 < bound < math.inf:
        raise UserError(f"norm_clipping: bound={bound} is out of range; allowed: finite numbers above 0")
    if not 0 <= noise < math.inf:
        raise UserError(f"norm_clipping: noise={noise} is out of range; allowed: finite numbers of at least 0")

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        valid_N = updates.valid_N
        norms_N = torch.where(valid_N, updates.norms_N, torch.inf)
        most = masked_median(norms_N, valid_N) if bound is None else torch.full_like(norms_N[0], bound)
        clip_N = torch.where(norms_N > most, most / norms_N, 1.0)
        share_N = torch.where(valid_N, updates.sizes_N, 0.0)
        weights_N = share_N / torch.where(valid_N.any(), share_N.sum(), 1.0)
        update_D = updates.weighted_sum(weights_N * clip_N)
        if noise > 0:
            largest = torch.finfo(updates.dtype).max
            noisy_D = update_D + noise * own_columns(normals(draw, all_columns(len(update_D))))
            update_D = torch.where(valid_N.any(), noisy_D.clamp(-largest, largest), 0.0).to(updates.dtype)
        return decide(updates, updates.sizes_N, norms_N, update_D=update_D)

    def num_uniforms(clients: int, parameters: int) -> int:
        return 2 * ((parameters + 1) // 2) if noise > 0 else 0

    return Defense("norm_clipping", ("kept", "nonfinite"), apply, num_uniforms=num_uniforms)
