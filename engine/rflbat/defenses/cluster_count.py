"""Clustering of the projected updates for RFLBAT, and the rules for the number of clusters.

Axes: N clients of the round, H coordinates, K clusters, L candidate numbers of clusters, M point sets, R restarts.
"""

import torch
from torch import Tensor

from rflbat.errors import UserError
from rflbat.randomness import Draw
from rflbat_kernels import distances, gap_statistic, kmeans, silhouette

RULES = ("gap", "gap2", "silhouette")
LARGEST = 10
"""Largest number of clusters that a rule may choose."""
REFERENCES = 5
"""Number of uniform reference sets of the gap statistic."""
RESTARTS = 10


def candidates(clusters: int | str) -> tuple[int, ...]:
    """List the candidate numbers of clusters of a rule.

    Args:
        clusters: a number, at least 1, or one of ``RULES``.

    Returns:
        consecutive numbers. ``gap`` starts at 1, ``gap2`` and ``silhouette`` at 2.

    Raises:
        UserError: a number below 1, or an unknown rule.
    """
    if isinstance(clusters, int):
        if clusters < 1:
            raise UserError(f"rflbat: clusters={clusters} is out of range; allowed: at least 1")
        return (clusters,)
    if clusters not in RULES:
        raise UserError(f"rflbat: clusters={clusters!r}; allowed: a number or one of {', '.join(RULES)}")
    return tuple(range(1 if clusters == "gap" else 2, LARGEST + 1))


def uniforms_drawn(points: int, components: int, clusters: int | str) -> int:
    """Count the uniforms that ``cluster`` draws.

    Args:
        points: N.
        components: H.
        clusters: a number or a rule.

    Returns:
        number of uniforms.
    """
    counts, references = candidates(clusters), REFERENCES if clusters in ("gap", "gap2") else 0
    return references * points * components + (1 + references) * len(counts) * RESTARTS * counts[-1]


def _reference_sets(points_NH: Tensor, valid_N: Tensor, draw: Draw) -> Tensor:
    """Draw points uniformly in the bounding box of the valid ones: ``(REFERENCES, N, H)``."""
    inside_N1 = valid_N[:, None]
    low_H = torch.where(inside_N1, points_NH, torch.inf).amin(0)
    high_H = torch.where(inside_N1, points_NH, -torch.inf).amax(0)
    box_H = torch.where(valid_N.any(), high_H - low_H, 0)
    return torch.where(valid_N.any(), low_H, 0) + box_H * draw(REFERENCES, *points_NH.shape)


def _largest_allowed(distances_NN: Tensor, valid_N: Tensor) -> Tensor:
    """Compute the largest number of clusters that a rule may choose.

    It is the number of distinct valid points minus 1, at least 1.
    """
    clients = len(valid_N)
    earlier_NN = torch.ones(clients, clients, dtype=torch.bool, device=valid_N.device).tril(-1)
    repeated_N = ((distances_NN == 0) & earlier_NN & valid_N[None, :]).any(1)
    return ((valid_N & ~repeated_N).sum() - 1).clamp_min(1)


def cluster(points_NH: Tensor, valid_N: Tensor, clusters: int | str, draw: Draw) -> tuple[Tensor, Tensor]:
    """Cluster the valid points by k-means: all candidate numbers, restarts and reference sets in one call.

    Args:
        points_NH: float64 coordinates.
        valid_N: bool, points to cluster.
        clusters: a number or a rule: ``gap`` (smallest k with ``Gap(k) >= Gap(k+1) - s_{k+1}``), ``gap2`` (the same
            from k = 2), ``silhouette`` (largest mean silhouette from k = 2).
        draw: source of uniforms.

    Returns:
        labels ``(N,)`` int64 below ``max(candidates(clusters))``, and the number of clusters (0-dim).

    Source: Tibshirani et al. 2001 (gap); Rousseeuw 1987 (silhouette).
    """
    counts = candidates(clusters)
    sets_MNH = points_NH[None]
    if clusters in ("gap", "gap2"):
        sets_MNH = torch.cat([sets_MNH, _reference_sets(points_NH, valid_N, draw)])
    starts_MLRK = draw(len(sets_MNH), len(counts), RESTARTS, counts[-1])
    found = kmeans(sets_MNH, counts, starts_MLRK, valid_N)
    counts_L = torch.arange(counts[0], counts[-1] + 1, device=points_NH.device)
    if len(counts) == 1:
        return found.labels_MLN[0, 0], counts_L[0]
    distances_NN = distances(points_NH)
    limit = _largest_allowed(distances_NN, valid_N)
    if clusters == "silhouette":
        mean_L = silhouette(distances_NN, found.labels_MLN[0], counts, valid_N)
        choice = torch.where(counts_L <= limit.clamp_min(counts[0]), mean_L, -torch.inf).argmax()
    else:
        choice = gap_statistic(found.inertia_ML, counts, valid_N.sum(), limit=limit.clamp_min(counts[0]))
    return found.labels_MLN[0].index_select(0, choice[None])[0], counts_L.index_select(0, choice[None])[0]
