"""Definitions of the operations of ``kmeans``, in plain float64 and without care for speed, memory or rounding.

Axes: M point sets, L numbers of clusters, R restarts, N points, V valid points, K clusters, H coordinates.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rflbat_kernels.kmeans.torch import KMeans


def plus_plus(points_VH: Tensor, uniforms_K: Tensor) -> Tensor:
    """Draw K start centres (K, H) by k-means++, given K uniforms u in [0, 1).

    The probability of a point is its squared distance to the nearest centre so far over the sum of these, or uniform if
    all are 0. The first point whose cumulative weight exceeds u times the total is drawn.
    """
    weights_V, drawn = torch.ones(len(points_VH), dtype=torch.float64), list[int]()
    for u in uniforms_K.to(torch.float64):
        cumulative_V = weights_V.cumsum(0)
        drawn.append(min(int((cumulative_V <= u * cumulative_V[-1]).sum()), len(points_VH) - 1))
        squared_VK = (points_VH[:, None] - points_VH[drawn]).square().sum(2)
        weights_V = squared_VK.amin(1) if squared_VK.amin(1).sum() > 0 else torch.ones_like(weights_V)
    return points_VH[drawn]


def lloyd(points_VH: Tensor, centres_KH: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """Move centres ``iterations`` times to the mean of the points nearest to them; an empty cluster keeps its centre.

    Returns labels (V,), centres (K, H) and the inertia ``sum_i min_k ||x_i - c_k||^2`` of the final centres.
    """
    centres_KH = centres_KH.clone()
    for _ in range(iterations):
        label_V = (points_VH[:, None] - centres_KH).square().sum(2).argmin(1)
        for k in range(len(centres_KH)):
            if (label_V == k).any():
                centres_KH[k] = points_VH[label_V == k].mean(0)
    squared_VK = (points_VH[:, None] - centres_KH).square().sum(2)
    return squared_VK.argmin(1), centres_KH, squared_VK.amin(1).sum()


def kmeans(
    points_MNH: Tensor,
    clusters: Sequence[int],
    uniforms_MLRK: Tensor,
    valid_N: Tensor | None = None,
    *,
    iterations: int = 50,
) -> KMeans:
    """Minimise ``sum_i min_k ||x_i - c_k||^2`` by k-means++ and Lloyd's algorithm; the best of R restarts wins."""
    sets, points, coordinates = points_MNH.shape
    labels_MLN = torch.zeros(sets, len(clusters), points, dtype=torch.int64)
    centres_MLKH = torch.zeros(sets, len(clusters), max(clusters), coordinates, dtype=torch.float64)
    inertia_ML = torch.zeros(sets, len(clusters), dtype=torch.float64)
    valid_MN = torch.ones(sets, points, dtype=torch.bool) if valid_N is None else valid_N.expand(sets, points)
    for m, at in [(m, at) for m in range(sets) if valid_MN[m].any() for at in range(len(clusters))]:
        points_VH, size = points_MNH[m, valid_MN[m]].to(torch.float64), clusters[at]
        starts = [plus_plus(points_VH, uniforms_K[:size]) for uniforms_K in uniforms_MLRK[m, at]]
        restarts = [lloyd(points_VH, start_KH, iterations) for start_KH in starts]
        least = min(inertia for _, _, inertia in restarts)
        best = next(found for found in restarts if found[2] <= least * (1 + 1e-12))
        labels_MLN[m, at, valid_MN[m]], centres_MLKH[m, at, :size], inertia_ML[m, at] = best
    return KMeans(labels_MLN, centres_MLKH, inertia_ML)


def gap_statistic(
    inertia_ML: Tensor, clusters: Sequence[int], n_valid: Tensor | int, *, limit: Tensor | None = None
) -> Tensor:
    """Return the position of the smallest k with ``Gap(k) >= Gap(k+1) - s_{k+1}``, else of the largest allowed k.

    ``Gap(k) = mean_b log W_kb - log W_k`` and ``s_k = sd_b(log W_kb) sqrt(1 + 1/B)``, where set 0 is the data and the
    other B sets are the references. At most n - 1 clusters, and at most ``limit``, are allowed.
    """
    log_ML = inertia_ML.to(torch.float64).clamp_min(torch.finfo(torch.float64).tiny).log()
    gap_L = log_ML[1:].mean(0) - log_ML[0]
    error_L = log_ML[1:].std(0, correction=0) * math.sqrt(1 + 1 / (len(log_ML) - 1))
    most = min(int(n_valid) - 1, math.inf if limit is None else float(limit))
    for at in range(len(clusters) - 1):
        if gap_L[at] >= gap_L[at + 1] - error_L[at + 1] or clusters[at + 1] > most:
            return torch.tensor(at)
    return torch.tensor(len(clusters) - 1)


def silhouette(
    distances_NN: Tensor, labels_LN: Tensor, clusters: Sequence[int], valid_N: Tensor | None = None
) -> Tensor:
    """Compute the mean of ``(b_i - a_i) / max(a_i, b_i)`` over the valid points, for each of L clusterings.

    a_i is the mean distance to the other members of the point's cluster, b_i the smallest mean distance to another
    cluster. The only member of a cluster scores 0, and 0/0 counts as 0. The result is -inf for fewer than two clusters.
    """
    valid_N = torch.ones(len(distances_NN), dtype=torch.bool) if valid_N is None else valid_N
    distances_VV, means = distances_NN[valid_N][:, valid_N].to(torch.float64), []
    for label_V, size in zip(labels_LN[:, valid_N], clusters, strict=True):
        count = {k: int((label_V == k).sum()) for k in range(size) if (label_V == k).any()}
        scores = []
        for distance_V, own in zip(distances_VV, map(int, label_V), strict=True) if len(count) > 1 else ():
            total = {k: float(distance_V[label_V == k].sum()) for k in count}
            a = total[own] / max(1, count[own] - 1)
            b = min(total[k] / count[k] for k in count if k != own)
            scores.append((b - a) / max(a, b) if count[own] > 1 and max(a, b) > 0 else 0.0)
        means.append(sum(scores) / len(scores) if scores else -math.inf)
    return torch.tensor(means, dtype=torch.float64)
