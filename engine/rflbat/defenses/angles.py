"""Cosine distances without cancellation, and clipping to the median norm: the common steps of FLAME and DeepSight.

Axes: N clients of the round.
"""

import torch
from torch import Tensor

from rflbat.defenses.base import Updates, normalised
from rflbat_kernels import masked_median

BOUNDS = ("all", "kept")


def cosine_distances(squared_NN: Tensor, excess_N: Tensor, square: Tensor) -> Tensor:
    """Compute ``1 - cos(a_i, a_j)`` from ``||a_i - a_j||^2`` and ``||a_i||^2``.

    ``1 - cos = (||a_i - a_j||^2 - (||a_i|| - ||a_j||)^2) / (2 ||a_i|| ||a_j||)``. Vectors that hardly differ, such as
    local models of one round, keep their digits: neither term is a difference of large numbers.

    Args:
        squared_NN: squared distances.
        excess_N: ``||a_i||^2 - square``.
        square: part of ``||a_i||^2`` that all vectors share, 0-dim; 0 if there is none.

    Returns:
        ``(N, N)`` float64 in [0, 2], 0 on the diagonal; a zero vector is at distance 1 from all others.
    """
    lengths_N = (excess_N + square).clamp_min(0.0).sqrt()
    present_N = lengths_N > 0
    one_N = torch.where(present_N, lengths_N, 1.0)
    sum_NN = torch.where(present_N[:, None] & present_N[None, :], one_N[:, None] + one_N[None, :], 1.0)
    apart_NN = (excess_N[:, None] - excess_N[None, :]) / sum_NN
    # Divided by the larger length first: no product can overflow.
    shorter_NN = torch.minimum(one_N[:, None], one_N[None, :])
    longer_NN = torch.maximum(one_N[:, None], one_N[None, :])
    distance_NN = (squared_NN - apart_NN.square()) / longer_NN / (2 * shorter_NN)
    distance_NN = torch.where(present_N[:, None] & present_N[None, :], distance_NN.clamp(0.0, 2.0), 1.0)
    return distance_NN.fill_diagonal_(0.0)


def clipped_mean(updates: Updates, kept_N: Tensor, bound: str) -> tuple[Tensor, Tensor]:
    """Average the kept updates after clipping them to the median norm: the mean of ``min(1, S / ||d_i||) d_i``.

    Args:
        updates: the round's updates.
        kept_N: bool, clients to average.
        bound: "all": S is the median norm of all valid updates; "kept": of the kept ones.

    Returns:
        the mean ``(D,)``, and S as a 0-dim tensor, 0 if no client is kept.
    """
    norms_N = updates.norms_N
    median = masked_median(norms_N, updates.valid_N if bound == "all" else kept_N & updates.valid_N)
    median = torch.where(median.isfinite(), median, 0.0)
    clip_N = torch.where(norms_N > median, median / torch.where(norms_N > 0, norms_N, 1.0), 1.0)
    return updates.weighted_sum(normalised(updates, kept_N.to(torch.float64)) * clip_N), median
