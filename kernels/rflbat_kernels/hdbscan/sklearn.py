"""HDBSCAN by scikit-learn, on the host.

Axes: K distance matrices, N points, V valid points.
"""

import numpy as np
import torch
from torch import Tensor


@torch.no_grad()
def hdbscan(
    distances_KNN: Tensor,
    valid_N: Tensor | None = None,
    *,
    min_cluster_size: int | None = None,
    min_samples: int = 1,
    allow_single_cluster: bool = False,
) -> Tensor:
    """Cluster points by density, from K distance matrices of the same points. One call WAITS for the device once.

    The hierarchy is that of the distances ``max(d_ij, c_i, c_j)``, with ``c_i`` the distance of point i to its
    ``min_samples``-th nearest point. The clusters are those with the most excess of mass.

    All matrices are copied to the host in one transfer, and the labels are copied back.

    Args:
        distances_KNN: symmetric, at least 0, any float type; not modified.
        valid_N: bool, mask of the points to cluster; the distances of the others may be anything. None: all are valid.
        min_cluster_size: smallest cluster, at least 1, which means 2 unless a single point is valid. None: a majority
            of the valid points, ``V // 2 + 1``.
        min_samples: rank of the neighbour that defines ``c_i``; the point itself counts as the first, as in
            scikit-learn. The package ``hdbscan`` does not count it, so its s is ``s + 1`` here. 1 and 2 both give the
            plain distances (single linkage). More than V counts as V.
        allow_single_cluster: whether all points may form one cluster, which then consists of the points that leave it
            last.

    Returns:
        int64 ``(K, N)``: number of the cluster, in the order of their first points; -1 for noise and invalid points.

    Raises:
        ValueError: wrong shape, type or value.

    Example:
        >>> points = torch.tensor([0.0, 1.0, 2.1, 50.0])
        >>> hdbscan((points[:, None] - points).abs()[None], allow_single_cluster=True).tolist()
        [[0, 0, 0, -1]]

    Source: Campello, Moulavi and Sander 2013; ``sklearn.cluster.HDBSCAN``.
    """
    if distances_KNN.ndim != 3 or distances_KNN.shape[1] != distances_KNN.shape[2]:
        raise ValueError(f"the distances have shape {tuple(distances_KNN.shape)}; allowed: (K, N, N)")
    if not distances_KNN.is_floating_point():
        raise ValueError(f"the distances are of type {distances_KNN.dtype}; allowed: float")
    if min_samples < 1 or (min_cluster_size is not None and min_cluster_size < 1):
        raise ValueError(f"min_cluster_size={min_cluster_size}, min_samples={min_samples}; allowed: at least 1")
    sets, points, _ = distances_KNN.shape
    if valid_N is None:
        valid_N = torch.ones(points, dtype=torch.bool, device=distances_KNN.device)
    if distances_KNN.device.type == "meta":
        return torch.empty(sets, points, dtype=torch.int64, device="meta")
    # The mask is packed with the distances, so that both need a single copy.
    packed = torch.cat([distances_KNN.to(torch.float64).reshape(-1), valid_N.to(torch.float64)]).cpu()
    settings = (min_cluster_size, min_samples, allow_single_cluster)
    return cluster_on_host(packed, sets, points, settings).to(distances_KNN.device)


def cluster_on_host(packed: Tensor, sets: int, points: int, settings: tuple[int | None, int, bool]) -> Tensor:
    """Cluster K sets on the host.

    Args:
        packed: float64 on the host: the K distance matrices, then the mask of valid points.
        sets: K.
        points: N.
        settings: min_cluster_size, min_samples and allow_single_cluster, as in ``hdbscan``.

    Returns:
        labels ``(K, N)`` on the host.
    """
    size, samples, single = settings
    numbers = packed.numpy()
    rows_V = np.flatnonzero(numbers[sets * points * points :])
    least = len(rows_V) // 2 + 1 if size is None else size
    labels_KN = np.full((sets, points), -1)
    for labels_N, distances_NN in zip(labels_KN, numbers[: -points or None].reshape(sets, points, points), strict=True):
        if len(rows_V) == 1 and least == 1 and single:
            labels_N[rows_V] = 0
        if len(rows_V) >= max(2, least):
            labels_N[rows_V] = _fitted(distances_NN[np.ix_(rows_V, rows_V)], least, samples, single)
    return torch.from_numpy(labels_KN)


def _fitted(distances_VV: np.ndarray, least: int, samples: int, single: bool) -> np.ndarray:
    """Fit one set and number the clusters by their first points."""
    from sklearn.cluster import HDBSCAN  # imported here: it takes a second

    model = HDBSCAN(
        min_cluster_size=max(2, least),
        min_samples=min(samples, len(distances_VV)),
        metric="precomputed",
        allow_single_cluster=single,
        copy=True,
    )
    found_V = model.fit(distances_VV).labels_
    firsts = sorted((int(np.argmax(found_V == label)), label) for label in set(found_V.tolist()) - {-1})
    numbered_V = np.full(len(found_V), -1)
    for number, (_, label) in enumerate(firsts):
        numbered_V[found_V == label] = number
    return numbered_V
