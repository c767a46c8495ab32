"""K-means batched over point sets, numbers of clusters and restarts, and rules that choose the number of clusters.

Axes: M point sets, L numbers of clusters, R restarts, Q = L R runs of a set, N points, K clusters, H coordinates.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from rflbat_kernels.gram.base import check_mask
from rflbat_kernels.kmeans.lloyd import lloyd

CACHED, RESIDENT = 2**17, 2**25
"""Maximum number of distances per batch: on a CPU as many as fit into its cache, elsewhere limited by memory."""

FAR = 1e100
"""Coordinate of unused centres (beyond a run's number of clusters); all points have coordinates within 1."""


class KMeans(NamedTuple):
    """The best restart of each point set and number of clusters."""

    labels_MLN: Tensor
    """int64, 0 to k - 1; 0 for invalid points."""
    centres_MLKH: Tensor
    """float64; 0 beyond the number of clusters."""
    inertia_ML: Tensor
    """float64, sum of squared distances of the valid points to their nearest centre."""


@torch.no_grad()
def kmeans(
    points_MNH: Tensor,
    clusters: Sequence[int],
    uniforms_MLRK: Tensor,
    valid_N: Tensor | None = None,
    *,
    iterations: int = 50,
) -> KMeans:
    """Cluster M point sets into each of L numbers of clusters, with R restarts each, in one batched computation.

    Starts are drawn by k-means++: the first centre is uniform over the valid points; each further one has probability
    ``D(x)^2 / sum D^2``, where D is the distance to the nearest centre so far (uniform if all are 0). It is sampled by
    inverse CDF: the first point whose cumulative weight exceeds ``u * total``. Then ``iterations`` rounds of Lloyd's
    algorithm: assign each point to its nearest centre (ties, up to rounding, go to the first), move each centre to the
    mean of its points; an empty cluster keeps its centre. Labels and inertia belong to the final centres. The restart
    of smallest inertia wins (the first within a relative 1e-12 of it).

    Args:
        points_MNH: any float type; centred and scaled inside, so that squares neither overflow nor underflow.
        clusters: L numbers of clusters, each at least 1; K is the largest.
        uniforms_MLRK: random numbers in [0, 1); R is the number of restarts.
        valid_N: bool (N,) or (M, N), mask of valid points; the others may hold anything. None: all are valid.
        iterations: rounds of Lloyd's algorithm, at least 0. A GPU does all of them, since stopping early would need
            synchronisation; on a CPU a run ends once its centres stand still, with the same result up to rounding.

    Returns:
        labels, centres and inertia of the best restarts.

    Raises:
        ValueError: wrong shape or type, a number of clusters below 1, ``iterations`` below 0.

    Example:
        >>> points = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [9.0, 8.0]]])
        >>> found = kmeans(points, (1, 2), torch.tensor([0.1, 0.5]).expand(1, 2, 1, 2))
        >>> found.labels_MLN[0, 1].tolist(), found.inertia_ML[0, 1].item()
        ([0, 0, 1], 0.5)

    Source: Arthur and Vassilvitskii 2007 (k-means++); Lloyd 1982.
    """
    valid_MN = _check(points_MNH, clusters, uniforms_MLRK, valid_N, iterations)
    points_MNH, origin_MH, scale_M1 = _standardise(points_MNH, valid_MN)
    found = []
    for first, stop in _groups(clusters, uniforms_MLRK.shape[2] * valid_MN.numel(), points_MNH.device):
        most = max(clusters[first:stop])
        uniforms = uniforms_MLRK[:, first:stop, :, :most].to(torch.float64)
        found.append(_cluster(points_MNH, valid_MN, clusters[first:stop], uniforms, iterations))
    padding = [max(clusters) - centres.shape[2] for _, centres, _ in found]
    centres_MLKH = torch.cat([pad(item[1], (0, 0, 0, rest)) for item, rest in zip(found, padding, strict=True)], 1)
    labels_MLN, inertia_ML = (torch.cat([item[part] for item in found], 1) for part in (0, 2))
    return _unscaled((labels_MLN, centres_MLKH, inertia_ML), clusters, origin_MH, scale_M1)


def _unscaled(
    found: tuple[Tensor, Tensor, Tensor], clusters: Sequence[int], origin_MH: Tensor, scale_M1: Tensor
) -> KMeans:
    """Undo ``_standardise``; centres beyond a run's number of clusters become 0."""
    labels_MLN, centres_MLKH, inertia_ML = found
    centres_MLKH = centres_MLKH * scale_M1[:, :, None, None] + origin_MH[:, None, None, :]
    for at, size in enumerate(clusters):
        centres_MLKH[:, at, size:] = 0.0
    return KMeans(labels_MLN, centres_MLKH, inertia_ML * scale_M1**2)


def _best(labels_MLRN: Tensor, centres_MLRKH: Tensor, inertia_MLR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Select the restart of smallest inertia; return labels (M, L, N), centres (M, L, K, H) and inertia (M, L)."""
    # Restarts that found the same clusters differ by rounding, which must not decide which numbering wins.
    best_ML1 = (inertia_MLR <= inertia_MLR.amin(2, keepdim=True) * (1 + 1e-12)).to(torch.uint8).argmax(2, keepdim=True)
    return (
        labels_MLRN.take_along_dim(best_ML1[..., None], 2)[:, :, 0],
        centres_MLRKH.take_along_dim(best_ML1[..., None, None], 2)[:, :, 0],
        inertia_MLR.take_along_dim(best_ML1, 2)[..., 0],
    )


def _check(
    points_MNH: Tensor, clusters: Sequence[int], uniforms_MLRK: Tensor, valid_N: Tensor | None, iterations: int
) -> Tensor:
    """Check the arguments of ``kmeans``; return the mask as (M, N)."""
    if points_MNH.ndim != 3 or not points_MNH.is_floating_point() or 0 in points_MNH.shape:
        shape = tuple(points_MNH.shape)
        raise ValueError(
            f"the points are {points_MNH.dtype} of shape {shape}; allowed: float (M, N, H) with no size of 0"
        )
    if not clusters or min(clusters) < 1:
        raise ValueError(f"clusters is {tuple(clusters)}; allowed: one or more numbers of at least 1")
    if iterations < 0:
        raise ValueError(f"iterations is {iterations}; allowed: at least 0")
    sets, points, _ = points_MNH.shape
    shape, wanted = tuple(uniforms_MLRK.shape), (sets, len(clusters), max(clusters))
    if len(shape) != 4 or (shape[0], shape[1], shape[3]) != wanted or shape[2] < 1:
        raise ValueError(f"uniforms have shape {shape}; allowed: ({wanted[0]}, {wanted[1]}, R, {wanted[2]})")
    if valid_N is None:
        return torch.ones(sets, points, dtype=torch.bool, device=points_MNH.device)
    if valid_N.dtype != torch.bool or valid_N.shape not in ((points,), (sets, points)):
        allowed = f"torch.bool of shape ({points},) or ({sets}, {points})"
        raise ValueError(f"the mask is {valid_N.dtype} of shape {tuple(valid_N.shape)}; allowed: {allowed}")
    return valid_N.expand(sets, points)


def _standardise(points_MNH: Tensor, valid_MN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre the valid points of each set and scale their largest coordinate to 1/2 .. 1.

    Returns points (M, N, H), origin (M, H) and scale (M, 1).
    """
    valid_MN1 = valid_MN[..., None]
    points_MNH = torch.where(valid_MN1, points_MNH.to(torch.float64), 0.0)
    origin_M1H = points_MNH.sum(1, keepdim=True) / valid_MN1.sum(1, keepdim=True).clamp_min(1)
    points_MNH = torch.where(valid_MN1, points_MNH - origin_M1H, 0.0)
    largest_M11 = points_MNH.abs().amax((1, 2), keepdim=True)
    largest_M11 = torch.where(largest_M11 > 0, largest_M11, 1.0)
    # x / mantissa(x) is a power of two, so the division is exact.
    scale_M11 = largest_M11 / torch.frexp(largest_M11).mantissa
    return points_MNH / scale_M11, origin_M1H[:, 0], scale_M11[:, 0]


def _groups(clusters: Sequence[int], points: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Yield ranges of ``clusters`` to batch: cache-sized on a CPU, large elsewhere, where kernel launches dominate."""
    room = CACHED if device.type == "cpu" else RESIDENT
    first = 0
    for stop in range(1, len(clusters) + 1):
        if stop == len(clusters) or (stop + 1 - first) * max(clusters[first : stop + 1]) * points > room:
            yield first, stop
            first = stop


def _cluster(
    points_MNH: Tensor, valid_MN: Tensor, clusters: Sequence[int], uniforms_MLRK: Tensor, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Run k-means; return labels (M, L, N), centres (M, L, K, H) and inertia (M, L) of the best restarts."""
    weights_MN = valid_MN.to(torch.float64)
    centres_MKLRH = _plus_plus(points_MNH, weights_MN, uniforms_MLRK)
    for at, size in enumerate(clusters):
        centres_MKLRH[:, size:, at] = FAR
    runs_LR = centres_MKLRH.shape[2:4]
    found = lloyd(points_MNH, weights_MN, centres_MKLRH.flatten(2, 3).permute(0, 2, 1, 3), iterations)
    labels_MLRN, centres_MLRKH, inertia_MLR = (torch.unflatten(part, 1, runs_LR) for part in found)
    labels_MLN, centres_MLKH, inertia_ML = _best(labels_MLRN, centres_MLRKH, inertia_MLR)
    return labels_MLN.masked_fill_(~valid_MN[:, None], 0), centres_MLKH, inertia_ML


def _plus_plus(points_MNH: Tensor, weights_MN: Tensor, uniforms_MLRK: Tensor) -> Tensor:
    """Draw the start centres (M, K, L, R, H), one after the other."""
    sets, points, coordinates = points_MNH.shape
    runs, restarts, clusters = uniforms_MLRK.shape[1:]
    columns = [column[:, None] for column in points_MNH.unbind(2)]
    weights_M1N = weights_MN[:, None]
    chance_MQN = weights_M1N.expand(-1, runs * restarts, -1)
    nearest_MQN = torch.full_like(chance_MQN, torch.inf)
    drawn = []
    for uniforms_MQ in uniforms_MLRK.flatten(1, 2).unbind(2):
        cumulated_MQN = chance_MQN.cumsum(2)
        goal_MQ1 = cumulated_MQN[..., -1:] * uniforms_MQ[..., None]
        pick_MQ1 = (cumulated_MQN <= goal_MQ1).sum(2, keepdim=True).clamp_max_(points - 1)
        centre_MQH = points_MNH.gather(1, pick_MQ1.expand(-1, -1, coordinates))
        drawn.append(centre_MQH)
        squared_MQN = torch.zeros_like(nearest_MQN)
        for h, column in enumerate(columns):
            difference = column - centre_MQH[..., h : h + 1]
            squared_MQN.addcmul_(difference, difference)
        nearest_MQN = torch.minimum(nearest_MQN, squared_MQN * weights_M1N)
        chance_MQN = torch.where(nearest_MQN.sum(2, keepdim=True) > 0, nearest_MQN, weights_M1N)
    return torch.stack(drawn, 1).view(sets, clusters, runs, restarts, coordinates)


@torch.no_grad()
def gap_statistic(
    inertia_ML: Tensor, clusters: Sequence[int], n_valid: Tensor | int, *, limit: Tensor | None = None
) -> Tensor:
    """Choose a number of clusters by the gap statistic.

    ``Gap(k) = mean_b log W_kb - log W_k``, ``s_k = sd_b(log W_kb) sqrt(1 + 1/B)`` (population standard deviation). The
    choice is the smallest k with ``Gap(k) >= Gap(k+1) - s_{k+1}``, where k + 1 stands for the next entry of
    ``clusters``, or the largest allowed k if there is none.

    Args:
        inertia_ML: within-cluster sums of squares W; set 0 is the data, the other B sets are the references.
        clusters: the L numbers of clusters, ascending.
        n_valid: number of clustered points; the number of clusters must be smaller.
        limit: 0-dim, additional upper limit on the number of clusters. If even the first of ``clusters`` exceeds a
            limit, the first is chosen.

    Returns:
        0-dim int64, position in ``clusters``.

    Raises:
        ValueError: no reference set, inconsistent shapes, or ``clusters`` not ascending.

    Example:
        >>> gap_statistic(torch.tensor([[9.0, 1.0, 0.9], [9.0, 6.0, 4.0], [9.0, 6.0, 4.0]]), (1, 2, 3), 50).item()
        1

    Source: Tibshirani, Walther and Hastie 2001, section 3.
    """
    if inertia_ML.ndim != 2 or inertia_ML.shape[0] < 2 or inertia_ML.shape[1] != len(clusters):
        shape = tuple(inertia_ML.shape)
        raise ValueError(f"inertia has shape {shape}; allowed: (1 + references, {len(clusters)}), 1 reference or more")
    if list(clusters) != sorted(set(clusters)):
        raise ValueError(f"clusters is {tuple(clusters)}; allowed: ascending numbers")
    log_ML = inertia_ML.to(torch.float64).clamp_min(torch.finfo(torch.float64).tiny).log()
    references_BL = log_ML[1:]
    gap_L = references_BL.mean(0) - log_ML[0]
    error_L = references_BL.std(0, correction=0) * (1 + 1 / len(references_BL)) ** 0.5
    most = torch.full((), torch.inf, device=inertia_ML.device) if limit is None else limit
    most = torch.minimum(most, torch.zeros_like(most) + (n_valid - 1))
    # Compare with Python numbers: copying ``clusters`` to the device would synchronise.
    last_L = torch.stack([most < following for following in (*clusters[1:], torch.inf)])
    enough_L = torch.cat([gap_L[:-1] >= gap_L[1:] - error_L[1:], gap_L.new_ones(1, dtype=torch.bool)])
    return (enough_L | last_L).to(torch.uint8).argmax()


@torch.no_grad()
def silhouette(
    distances_NN: Tensor, labels_LN: Tensor, clusters: Sequence[int], valid_N: Tensor | None = None
) -> Tensor:
    """Compute the mean silhouette of each of L clusterings of the same points.

    ``s_i = (b_i - a_i) / max(a_i, b_i)``, where a_i is the mean distance to the other members of the point's cluster
    and b_i the smallest mean distance to another cluster. The only member of a cluster scores 0, and 0/0 counts as 0.

    Args:
        distances_NN: distances between the points, at least 0; may hold anything for invalid points.
        labels_LN: int64, cluster of each point, below that row's number of clusters.
        clusters: the L numbers of clusters.
        valid_N: bool, mask of valid points. None: all are valid.

    Returns:
        (L,) float64 in [-1, 1]; -inf if fewer than two clusters have a point.

    Raises:
        ValueError: inconsistent shapes.

    Example:
        >>> apart = torch.tensor([[0.0, 1.0, 10.0], [1.0, 0.0, 10.0], [10.0, 10.0, 0.0]])
        >>> silhouette(apart, torch.tensor([[0, 0, 1]]), (2,)).item()  # (0.9 + 0.9 + 0) / 3
        0.6

    Source: Rousseeuw 1987.
    """
    rows = len(distances_NN)
    if distances_NN.shape != (rows, rows) or labels_LN.shape != (len(clusters), rows):
        shapes = f"{tuple(distances_NN.shape)} and {tuple(labels_LN.shape)}"
        raise ValueError(f"distances and labels have shapes {shapes}; allowed: (N, N) and ({len(clusters)}, N)")
    check_mask(valid_N, rows)
    if valid_N is None:
        valid_N = torch.ones(rows, dtype=torch.bool, device=distances_NN.device)
    both_NN = valid_N[:, None] & valid_N[None, :]
    distances_NN = torch.where(both_NN, distances_NN.to(torch.float64), 0.0)
    clusters_K = torch.arange(max(clusters), device=distances_NN.device)
    member_LNK = (labels_LN[..., None] == clusters_K) & valid_N[:, None]
    count_L1K = member_LNK.sum(1, keepdim=True)
    sums_LNK = distances_NN @ member_LNK.to(torch.float64)
    own_LN = torch.where(member_LNK, sums_LNK, 0.0).sum(2)
    others_LN = torch.where(member_LNK, count_L1K, 0).sum(2) - 1
    inside_LN = own_LN / others_LN.clamp_min(1)
    elsewhere_LNK = torch.where(member_LNK | (count_L1K == 0), torch.inf, sums_LNK / count_L1K.clamp_min(1))
    outside_LN = elsewhere_LNK.amin(2)
    larger_LN = torch.maximum(inside_LN, outside_LN)
    counted_LN = (others_LN > 0) & (larger_LN > 0) & valid_N
    score_LN = torch.where(counted_LN, (outside_LN - inside_LN) / torch.where(counted_LN, larger_LN, 1.0), 0.0)
    mean_L = score_LN.sum(1) / valid_N.sum().clamp_min(1)
    return torch.where((count_L1K[:, 0] > 0).sum(1) >= 2, mean_L, -torch.inf)
