"""Definition of ``hdbscan``, in plain float64 and without care for speed.

Axes: K distance matrices, N points, V valid points, C points of a cluster.
"""

import math

import torch
from torch import Tensor


def components(reach_VV: Tensor, points: list[int], height: float) -> list[list[int]]:
    """Split points into groups that are connected by distances below ``height``."""
    groups, left = [], list(points)
    while left:
        group, edge = [], [left.pop(0)]
        while edge:
            point = edge.pop()
            group.append(point)
            edge += [other for other in left if reach_VV[point, other] < height]
            left = [other for other in left if other not in edge]
        groups.append(sorted(group))
    return groups


def grow(
    reach_VV: Tensor, points: list[int], birth: float, least: int, selectable: bool = True
) -> tuple[float, list[list[int]], list[int]]:
    """Follow a cluster from its birth to its end, at density ``1 / height``.

    Returns the larger of its own stability ``sum_i (density_i - birth)`` and that of the clusters it splits into, the
    clusters selected for it, and its points before its last event.
    """
    stability, below, last, staying = 0.0, list[tuple[float, list[list[int]], list[int]]](), points, points
    while len(staying) > 1:
        last = staying
        heights = sorted({float(reach_VV[i, j]) for i in last for j in last if i != j})
        height = next(h for h in heights if len(components(reach_VV, last, math.nextafter(h, math.inf))) == 1)
        density = math.inf if height == 0 else 1 / height
        parts = [part for part in components(reach_VV, last, height) if len(part) >= least]
        staying = parts[0] if len(parts) == 1 else []
        stability += (density - birth) * (len(last) - len(staying))
        if len(parts) > 1:
            below = [grow(reach_VV, part, density, least) for part in parts]
    mass = sum(each[0] for each in below)
    if selectable and not mass > stability:
        return stability, [points], last
    return mass, [cluster for each in below for cluster in each[1]], last


def hdbscan(
    distances_KNN: Tensor,
    valid_N: Tensor | None = None,
    *,
    min_cluster_size: int | None = None,
    min_samples: int = 1,
    allow_single_cluster: bool = False,
) -> Tensor:
    """Label the points of each matrix by cluster, numbered by first point; -1 for noise and for invalid points.

    The clusters with the most stability are selected from the hierarchy of the distances ``max(d_ij, c_i, c_j)``, with
    ``c_i`` the distance to the ``min_samples``-th nearest point, i itself included. If all points are one cluster, only
    those that leave it last belong to it.
    """
    rows = torch.arange(distances_KNN.shape[1]) if valid_N is None else torch.arange(len(valid_N))[valid_N.cpu()]
    labels_KN = torch.full(distances_KNN.shape[:2], -1)
    least = len(rows) // 2 + 1 if min_cluster_size is None else min_cluster_size
    for labels_N, distances_NN in zip(labels_KN, distances_KNN.to(torch.float64), strict=True):
        if len(rows) == 1 and least == 1 and allow_single_cluster:
            labels_N[rows] = 0
        if len(rows) < max(2, least):
            continue
        distances_VV = distances_NN[rows[:, None], rows]
        core_V = distances_VV.sort(dim=1).values[:, min(min_samples, len(rows)) - 1]
        reach_VV = torch.maximum(distances_VV, torch.maximum(core_V[:, None], core_V[None, :]))
        everything = list(range(len(rows)))
        _, clusters, last = grow(reach_VV, everything, 0.0, max(2, least), allow_single_cluster)
        clusters = [last] if clusters == [everything] else clusters
        for number, cluster in enumerate(sorted(clusters)):
            labels_N[rows[cluster]] = number
    return labels_KN
