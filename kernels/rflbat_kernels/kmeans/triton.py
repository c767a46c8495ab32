"""K-means in Triton for CUDA devices: one program runs all rounds of Lloyd's algorithm of a run, centres in registers.

Axes: M point sets, L numbers of clusters, R restarts, Q = L R runs of a set, N points, K clusters, H coordinates;
T points of one step, C clusters and E coordinates padded to powers of two.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from rflbat_kernels.gram.triton import check_launch
from rflbat_kernels.kmeans.lloyd import TINY
from rflbat_kernels.kmeans.torch import FAR, KMeans, _best, _check, _plus_plus, _standardise, _unscaled

WIDEST = 512
"""Maximum of clusters times coordinates of a run, each padded to a power of two: the centres are kept in registers."""
STEP = 4096
"""Number of coordinate differences of one step."""


@triton.jit  # type: ignore[untyped-decorator]
def _distances(point_TE: tl.tensor, centre_CE: tl.tensor) -> tl.tensor:
    """Compute the squared distances of T points to C centres, from explicit differences."""
    difference_TCE = point_TE[:, None, :] - centre_CE[None, :, :]
    return tl.sum(difference_TCE * difference_TCE, 2)


@triton.jit  # type: ignore[untyped-decorator]
def _nearest(squared_TC: tl.tensor, cluster_C: tl.tensor, TINY: tl.constexpr) -> tl.tensor:
    """Mark the nearest centre of each point by the ranking of the torch implementation; ties go to the first."""
    shade_C = 1.0 + cluster_C.to(tl.float64) * (2.0**-50)
    rank_TC = squared_TC * shade_C[None, :] + (shade_C * TINY)[None, :]
    lowest_TC = rank_TC == tl.min(rank_TC, 1)[:, None]
    first_T = tl.min(tl.where(lowest_TC, cluster_C[None, :], cluster_C.shape[0]), 1)
    return cluster_C[None, :] == first_T[:, None]


@triton.jit  # type: ignore[untyped-decorator]
def _points_at(
    points_MNH: tl.tensor,
    valid_MN: tl.tensor,
    chosen: tl.tensor,
    point_T: tl.tensor,
    along_E: tl.tensor,
    points: tl.tensor,
    coordinates: tl.tensor,
) -> Any:
    """Load T points of a set and their validity; invalid points are 0."""
    place_T = chosen * points + point_T
    counts_T = tl.load(valid_MN + place_T, mask=point_T < points, other=0).to(tl.int1)
    wanted_TE = counts_T[:, None] & (along_E < coordinates)[None, :]
    address_TE = points_MNH + (place_T[:, None] * coordinates + along_E[None, :])
    return tl.load(address_TE, mask=wanted_TE, other=0.0), counts_T


@triton.jit  # type: ignore[untyped-decorator]
def _lloyd_kernel(
    points_MNH: tl.tensor,
    valid_MN: tl.tensor,
    sizes_Q: tl.tensor,
    centres_MQKH: tl.tensor,
    labels_MQN: tl.tensor,
    inertia_MQ: tl.tensor,
    points: tl.tensor,
    coordinates: tl.tensor,
    clusters: tl.tensor,
    runs: tl.tensor,
    iterations: tl.tensor,
    T: tl.constexpr,
    C: tl.constexpr,
    E: tl.constexpr,
    FAR: tl.constexpr,
    TINY: tl.constexpr,
    KEPT: tl.constexpr,
) -> None:
    """Move the centres of one run until they stand still or all rounds are done; then label the points."""
    run = tl.program_id(0).to(tl.int64)
    chosen = run // runs
    cluster_C, along_E = tl.arange(0, C), tl.arange(0, E).to(tl.int64)
    there_CE = (cluster_C < clusters)[:, None] & (along_E < coordinates)[None, :]
    address_CE = centres_MQKH + ((run * clusters + cluster_C)[:, None] * coordinates + along_E[None, :])
    centre_CE = tl.load(address_CE, mask=there_CE, other=0.0)
    # Put padding and the centres beyond this run's number of clusters far away, where they attract no point.
    outside_CE = (cluster_C >= tl.load(sizes_Q + run % runs))[:, None] & (along_E < coordinates)[None, :]
    centre_CE = tl.where(outside_CE, FAR, centre_CE)
    left = tl.zeros([], tl.int32) + iterations
    moved = left > 0
    while moved:
        # Weight the old centre by 2^-900, so that an empty cluster keeps its centre (see lloyd.py).
        sum_CE = centre_CE * KEPT
        count_C = tl.full([C], KEPT, tl.float64)
        for first in range(0, points, T):
            point_T = first + tl.arange(0, T).to(tl.int64)
            point_TE, counts_T = _points_at(points_MNH, valid_MN, chosen, point_T, along_E, points, coordinates)
            member_TC = _nearest(_distances(point_TE, centre_CE), cluster_C, TINY) & counts_T[:, None]
            sum_CE += tl.sum(tl.where(member_TC[:, :, None], point_TE[:, None, :], 0.0), 0)
            count_C += tl.sum(member_TC.to(tl.float64), 0)
        next_CE = sum_CE / count_C[:, None]
        left -= 1
        moved = (left > 0) & (tl.sum(tl.sum((next_CE != centre_CE).to(tl.int32), 1), 0) > 0)
        centre_CE = next_CE
    inertia = tl.zeros([T], tl.float64)
    for first in range(0, points, T):
        point_T = first + tl.arange(0, T).to(tl.int64)
        point_TE, counts_T = _points_at(points_MNH, valid_MN, chosen, point_T, along_E, points, coordinates)
        squared_TC = _distances(point_TE, centre_CE)
        member_TC = _nearest(squared_TC, cluster_C, TINY) & counts_T[:, None]
        label_T = tl.sum(tl.where(member_TC, cluster_C[None, :], 0), 1)
        inertia += tl.sum(tl.where(member_TC, squared_TC, 0.0), 1)
        tl.store(labels_MQN + (run * points + point_T), label_T, mask=point_T < points)
    tl.store(inertia_MQ + run, tl.sum(inertia, 0))
    tl.store(address_CE, centre_CE, mask=there_CE)


@torch.no_grad()
def kmeans(
    points_MNH: Tensor,
    clusters: Sequence[int],
    uniforms_MLRK: Tensor,
    valid_N: Tensor | None = None,
    *,
    iterations: int = 50,
) -> KMeans:
    """Cluster M point sets into each of L numbers of clusters, with R restarts each, one program per run.

    The starts and the choice of the restart are those of the torch implementation. A program does all rounds of its run
    and ends early once its centres stand still: one launch for all of Lloyd's algorithm, and no synchronisation.

    Args:
        points_MNH: any float type, on a CUDA device; centred and scaled inside.
        clusters: L numbers of clusters, each at least 1; K is the largest. K times H, each padded to a power of two,
            must be at most 512.
        uniforms_MLRK: random numbers in [0, 1); R is the number of restarts.
        valid_N: bool (N,) or (M, N), mask of valid points; the others may hold anything. None: all are valid.
        iterations: maximum rounds of Lloyd's algorithm, at least 0.

    Returns:
        labels, centres and inertia of the best restarts.

    Raises:
        ValueError: wrong shape, type or device, a number of clusters below 1, too many centres, ``iterations`` below 0.

    Example:
        >>> points = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [9.0, 8.0]]])  # doctest: +SKIP
        >>> draws = torch.tensor([0.1, 0.5]).expand(1, 2, 1, 2)  # doctest: +SKIP
        >>> kmeans(points.cuda(), (1, 2), draws.cuda()).labels_MLN[0, 1].tolist()  # doctest: +SKIP
        [0, 0, 1]

    Source: Arthur and Vassilvitskii 2007 (k-means++); Lloyd 1982.
    """
    valid_MN = _check(points_MNH, clusters, uniforms_MLRK, valid_N, iterations)
    check_launch("kmeans", points_MNH, uniforms_MLRK, valid_N)
    points, coordinates = points_MNH.shape[1:]
    filled = [triton.next_power_of_2(size) for size in (max(clusters), coordinates)]
    if filled[0] * filled[1] > WIDEST:
        given = f"{max(clusters)} clusters of {coordinates} coordinates"
        raise ValueError(f"kmeans=triton got {given}, padded {filled[0]} x {filled[1]}; allowed: at most {WIDEST}")
    points_MNH, origin_MH, scale_M1 = _standardise(points_MNH, valid_MN)
    points_MNH, valid_MN = points_MNH.contiguous(), valid_MN.contiguous()
    starts_MKLRH = _plus_plus(points_MNH, valid_MN.to(torch.float64), uniforms_MLRK.to(torch.float64))
    centres_MLRKH = starts_MKLRH.permute(0, 2, 3, 1, 4).contiguous()
    shape_MLR = centres_MLRKH.shape[:3]
    labels_MLRN = torch.empty(*shape_MLR, points, dtype=torch.int32, device=points_MNH.device)
    inertia_MLR = torch.empty(shape_MLR, dtype=torch.float64, device=points_MNH.device)
    sizes_Q = _sizes(clusters, shape_MLR[2], points_MNH.device)
    step = min(triton.next_power_of_2(points), STEP // (filled[0] * filled[1]))
    with torch.cuda.device(points_MNH.get_device()):  # -1 for a CPU tensor, which is a no-op
        _lloyd_kernel[(inertia_MLR.numel(),)](
            *(points_MNH, valid_MN, sizes_Q, centres_MLRKH, labels_MLRN, inertia_MLR, points, coordinates),
            *(max(clusters), sizes_Q.numel(), iterations, step, *filled, FAR, TINY, 2.0**-900),
        )
    found = _best(labels_MLRN.to(torch.int64), centres_MLRKH, inertia_MLR)
    return _unscaled(found, clusters, origin_MH, scale_M1)


def _sizes(clusters: Sequence[int], restarts: int, device: torch.device) -> Tensor:
    """Return the number of clusters of each run (Q,), filled on the device, since copying a list would synchronise."""
    return torch.cat([torch.full((restarts,), size, dtype=torch.int32, device=device) for size in clusters])
