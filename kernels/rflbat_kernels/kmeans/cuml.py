"""K-means by cuML, from the same start centres as the torch implementation.

Axes: M point sets, L numbers of clusters, R restarts, N points, K clusters, H coordinates.
"""

from collections.abc import Sequence
from importlib import import_module

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.dlpack import from_dlpack

from rflbat_kernels.kmeans.torch import KMeans, _check, _plus_plus, _standardise

TOLERANCE = 1e-300
"""Movement of the centres at which cuML stops early; cuML does not accept 0."""


@torch.no_grad()
def kmeans(
    points_MNH: Tensor,
    clusters: Sequence[int],
    uniforms_MLRK: Tensor,
    valid_N: Tensor | None = None,
    *,
    iterations: int = 50,
) -> KMeans:
    """Cluster M point sets into each of L numbers of clusters, with R restarts each: M L R sequential fits by cuML.

    The starts are the k-means++ centres that the torch implementation draws from the same uniforms, invalid points get
    weight 0, and the restart of smallest inertia wins, as there. Tensors are exchanged with cuML by DLPack, without a
    copy. Differences from the torch implementation: every fit SYNCHRONISES with the device; cuML stops when the centres
    stand still or the sum of squared distances rises; and it computes distances from expanded squares, so a point
    nearly equidistant from two centres may get the other label. The inertia is recomputed from explicit differences.

    Args:
        points_MNH: any float type, on a CUDA device; centred and scaled inside.
        clusters: L numbers of clusters, each at least 1; K is the largest.
        uniforms_MLRK: random numbers in [0, 1); R is the number of restarts.
        valid_N: bool (N,) or (M, N), mask of valid points; the others may hold anything. None: all are valid.
        iterations: maximum rounds of Lloyd's algorithm, at least 0.

    Returns:
        labels, centres and inertia of the best restarts.

    Raises:
        ValueError: wrong shape or type, a number of clusters below 1, ``iterations`` below 0.
        ImportError: CuPy or cuML cannot be imported.

    Example:
        >>> points = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [9.0, 8.0]]])  # doctest: +SKIP
        >>> draws = torch.tensor([0.1, 0.5]).expand(1, 2, 1, 2)  # doctest: +SKIP
        >>> kmeans(points.cuda(), (1, 2), draws.cuda()).labels_MLN[0, 1].tolist()  # doctest: +SKIP
        [0, 0, 1]

    Source: Arthur and Vassilvitskii 2007 (k-means++); Lloyd 1982; cuml.cluster.KMeans.
    """
    valid_MN = _check(points_MNH, clusters, uniforms_MLRK, valid_N, iterations)
    points_MNH, origin_MH, scale_M1 = _standardise(points_MNH, valid_MN)
    starts_MKLRH = _plus_plus(points_MNH, valid_MN.to(torch.float64), uniforms_MLRK.to(torch.float64))
    # cuML needs at least as many points as clusters and a positive sum of weights. The points of a set without a valid
    # point are all zeros, so they may get weight 1.
    missing = max(0, max(clusters) - points_MNH.shape[1])
    weights_MN = torch.where(valid_MN.any(1, keepdim=True), valid_MN, True).to(torch.float64)
    weights_MN, padded_MNH = pad(weights_MN, (0, missing)), pad(points_MNH, (0, 0, 0, missing))
    best = []
    with torch.cuda.device(points_MNH.get_device()):  # -1 for a CPU tensor, which is a no-op
        for m, points_NH in enumerate(points_MNH):
            for at, size in enumerate(clusters):
                starts_RKH = starts_MKLRH[m, :size, at].transpose(0, 1)
                tried = [_fit(padded_MNH[m], weights_MN[m], start_KH, iterations) for start_KH in starts_RKH]
                best.append(_best(points_NH, valid_MN[m], tried, max(clusters)))
    shape_ML = (len(points_MNH), len(clusters))
    stacked = [torch.stack(part) for part in zip(*best, strict=True)]
    labels_MLN, centres_MLKH, inertia_ML = (part.view(*shape_ML, *part.shape[1:]) for part in stacked)
    centres_MLKH = centres_MLKH * scale_M1[:, :, None, None] + origin_MH[:, None, None, :]
    for at, size in enumerate(clusters):
        centres_MLKH[:, at, size:] = 0.0
    return KMeans(labels_MLN, centres_MLKH, inertia_ML * scale_M1**2)


def _fit(points_NH: Tensor, weights_N: Tensor, start_KH: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Fit one restart; return its labels and centres as views of cuML's memory."""
    # Imported here: most machines have neither package, and importing them takes seconds.
    cupy, cluster = import_module("cupy"), import_module("cuml.cluster")
    points, weights, start = (
        cupy.from_dlpack(tensor.detach().contiguous()) for tensor in (points_NH, weights_N, start_KH)
    )
    fitted = cluster.KMeans(
        n_clusters=len(start_KH), init=start, n_init=1, max_iter=iterations, tol=TOLERANCE, output_type="cupy"
    ).fit(points, sample_weight=weights)
    return from_dlpack(fitted.labels_), from_dlpack(fitted.cluster_centers_)


def _best(
    points_NH: Tensor, valid_N: Tensor, tried: Sequence[tuple[Tensor, Tensor]], most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return labels (N,), centres (K, H) and inertia of the first restart within 1e-12 of the smallest inertia."""
    labels_RN = torch.stack([labels for labels, _ in tried])[:, : len(points_NH)].to(torch.int64)
    centres_RKH = torch.stack([centres for _, centres in tried])
    nearest_RNH = centres_RKH.take_along_dim(labels_RN[..., None], 1)
    inertia_R = ((points_NH - nearest_RNH).square().sum(2) * valid_N).sum(1)
    best_1 = (inertia_R <= inertia_R.amin() * (1 + 1e-12)).to(torch.uint8).argmax()[None]
    labels_N = labels_RN.index_select(0, best_1)[0].masked_fill(~valid_N, 0)
    centres_KH = centres_RKH.index_select(0, best_1)[0]
    return labels_N, pad(centres_KH, (0, 0, 0, most - len(centres_KH))), inertia_R.index_select(0, best_1)[0]
