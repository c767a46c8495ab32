"""Nearest-neighbour mixing.

Axes: N clients of the round.
"""

import torch

from rflbat.defenses.base import Updates
from rflbat.defenses.krum import assumed_malicious, check_f
from rflbat.randomness import Draw
from rflbat.transforms.base import Transform, Transformed, transformed


def nnm(*, f: int | str | None = None) -> Transform:
    """Replace every update by the mean of the ``n - f`` updates nearest to it, itself included.

    Args:
        f: assumed number of malicious clients, as in Krum: at least 0; default the largest with ``n >= 2 f + 3``;
            "true" uses the real number.

    Returns:
        the transform.

    Raises:
        UserError: f is negative or a string other than "true".

    Conventions:
        The n finite updates of the round; ties go to the first. Plain means, regardless of numbers of samples.

    Needs:
        The Gram matrix.

    Fails:
        If f is assumed too small: malicious updates are then mixed into most rows.

    Example:
        >>> import rflbat, numpy
        >>> updates = numpy.array([[0.0], [1.0], [2.0], [9.0]])
        >>> rflbat.aggregate(updates, "median", before="nnm(f=1)").update.tolist()
        [1.0]

    Source: Allouah et al. 2023, "Fixing by mixing: A recipe for optimal Byzantine ML under heterogeneity", algorithm 2.
    """
    check_f(f)

    def apply(updates: Updates, draw: Draw) -> Transformed:
        valid_N = updates.valid_N
        count = (valid_N.sum() - assumed_malicious(updates, f)).clamp_min(1)
        away_NN = torch.where(valid_N, updates.squared_distances_NN, torch.inf).fill_diagonal_(-1.0)
        order_NN = away_NN.argsort(dim=1, stable=True)
        ranks_NN = torch.arange(len(valid_N), device=valid_N.device).expand_as(order_NN)
        nearest_NN = torch.zeros_like(order_NN).scatter(1, order_NN, ranks_NN) < count
        mixed_NN = nearest_NN & valid_N & valid_N[:, None]
        shares_NN = mixed_NN / mixed_NN.sum(1, keepdim=True).clamp_min(1).to(torch.float64)
        own_N = torch.arange(len(valid_N), device=valid_N.device)
        return transformed(updates, shares_NN, valid_N, own_N, updates.sizes_N)

    return Transform("nnm", apply)
