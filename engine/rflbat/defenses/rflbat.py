"""RFLBAT: PCA, outlier filter, k-means, choice of a cluster by cosines, second outlier filter, mean.

Axes: N clients of the round, H principal components, K clusters.
"""

import math

import torch
from torch import Tensor

from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.defenses.cluster_count import candidates, cluster, uniforms_drawn
from rflbat.errors import UserError, nearest
from rflbat.randomness import Draw
from rflbat_kernels import distance_sums, masked_median, pca, pca_lowrank

STAGES = ("kept", "nonfinite", "filter1", "cluster", "filter2")
COMPONENTS = 2
ALONE = 2.0
"""Score of a cluster with a single client: above every cosine, so it is chosen only if there is no other cluster."""


def coordinates(updates: Updates, back_end: str) -> Tensor:
    """Project the updates to the plane of their two principal components (steps 1 and 2 of the paper).

    Args:
        updates: the round's updates.
        back_end: "gram" (from the cached Gram matrix) or "lowrank" (``torch.pca_lowrank`` on the updates).

    Returns:
        ``(N, 2)`` float64.
    """
    if back_end == "lowrank":
        return pca_lowrank(updates.matrix_ND, updates.valid_N, components=COMPONENTS)
    return pca(updates.gram.anchored_NN, updates.valid_N, components=COMPONENTS)


def passes_filter(points_NH: Tensor, present_N: Tensor, eps: float) -> Tensor:
    """Drop outliers: keep client i unless ``G_i / median(G) > eps``, with ``G_i = sum_j ||x_i - x_j||``.

    Equality is kept. If the median is 0, clients with ``G_i = 0`` are kept too (0/0).

    Args:
        points_NH: the projected updates.
        present_N: bool, the clients to filter; sums and median are taken over these alone.
        eps: threshold, above 0.

    Returns:
        bool ``(N,)``, a subset of ``present_N``.

    Source: Wang et al. 2022, algorithm 1, lines 15-24.
    """
    spread_N = distance_sums(points_NH, present_N)
    median = masked_median(spread_N, present_N)
    return present_N & ~(spread_N > eps * median)


def cluster_scores(cosines_NN: Tensor, member_KN: Tensor) -> tuple[Tensor, Tensor]:
    """Score clusters by the similarity of their members' original updates.

    ``v_j`` is the mean cosine of j with the OTHER members of its cluster. A cluster's score is the median of its
    ``v_j``.

    Args:
        cosines_NN: cosines of the updates.
        member_KN: bool, membership of each client in each cluster.

    Returns:
        scores ``(K,)`` (``ALONE`` for one member, +inf for an empty cluster), and v ``(N,)`` (0 for a single member).

    Source: Wang et al. 2022, algorithm 1, lines 27-35.
    """
    together_NN = (member_KN[:, :, None] & member_KN[:, None, :]).any(0)
    together_NN = together_NN & ~torch.eye(len(together_NN), dtype=torch.bool, device=together_NN.device)
    others_N = together_NN.sum(1)
    similarity_N = torch.where(together_NN, cosines_NN, 0).sum(1) / others_N.clamp_min(1)
    count_K = member_KN.sum(1)
    score_K = masked_median(similarity_N.expand(len(member_KN), -1), member_KN)
    score_K = torch.where(count_K == 1, ALONE, score_K)
    return torch.where(count_K == 0, torch.inf, score_K), similarity_N


def rflbat(
    *,
    clusters: int | str = "silhouette",
    smallest: float = 0.0,
    eps1: float = 10.0,
    eps2: float = 4.0,
    weighting: str = "samples",
    pca: str = "gram",
) -> Defense:
    """Cluster the updates by their two principal components and keep the cluster with the least similar members.

    1. Project all updates to 2 principal components ``x_i``.
    2. Filter 1: drop i if ``G_i / median(G) > eps1`` with ``G_i = sum_j ||x_i - x_j||``.
    3. Cluster the survivors by k-means.
    4. In each cluster let ``v_j`` be the mean cosine of j's update with those of the other members. Choose the cluster
       with the smallest median of v: attackers are more similar to each other than honest clients are.
    5. Filter 2: as filter 1, within the chosen cluster, with ``eps2``.
    6. Average the kept updates.

    If fewer than 3 clients survive filter 1, they form one cluster.

    Args:
        clusters: number of clusters, at least 1, or a rule: ``gap``, ``gap2``, ``silhouette`` (the default; the paper
            does not specify one, and ``benchmarks/paper`` compares them).
        smallest: smallest cluster that may be chosen, as a share of the survivors of filter 1, 0 to 1. If no cluster is
            large enough, all are admitted. The paper has no such bound: 0.
        eps1: threshold of filter 1, above 0 (10, as in the paper).
        eps2: threshold of filter 2, above 0 (4, as in the paper).
        weighting: ``samples`` (n_i over the kept clients, as in FedAvg) or ``uniform``.
        pca: ``gram`` (from the cached Gram matrix) or ``lowrank`` (``torch.pca_lowrank``, which waits for CUDA and
            needs complete updates, so not on several ranks).

    Returns:
        the defense. Its score is ``v_j``. The trace holds ``coordinates`` (N, 2), ``cluster`` (N,) (-1 for clients that
        were rejected before clustering), ``cluster_scores`` (K,) and ``clusters`` (0-dim).

    Raises:
        UserError: a value is out of range.

    Conventions:
        Euclidean distances in filters 1 and 2, not squared. A filter drops values above its threshold, not equal to it,
        and 0/0 passes. A client's mean cosine excludes itself. A cluster of one client scores 2, above every cosine,
        and is chosen only if there is no other. The median of an even number of values is the mean of the two middle
        ones.

    Needs:
        The Gram matrix: coordinates, cosines and distances are computed from it. No state and no number of attackers.

    Fails:
        From a cold start under the distributed backdoor: before the model has learned, honest updates agree more than
        four groups of attackers do. If a few honest updates are so far from all others that they determine the
        principal components, such as updates of clients with very few samples. Against an attacker that spreads its
        updates.

    Example:
        >>> import rflbat, torch
        >>> honest = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)) + 1
        >>> updates = torch.cat([honest, torch.full((9, 50), -1.0)])
        >>> int(rflbat.aggregate(updates, "rflbat").kept.sum())
        6

    Source: Wang et al. 2022, "RFLBAT: A robust federated learning algorithm against backdoor attack", algorithm 1.
    """
    candidates(clusters)
    if not 0 <= smallest <= 1:
        raise UserError(f"rflbat: smallest={smallest} is out of range; allowed: 0 to 1")
    if not (0 < eps1 < math.inf and 0 < eps2 < math.inf):
        raise UserError(f"rflbat: eps1={eps1} and eps2={eps2} must be finite numbers above 0")
    for key, value, allowed in (("weighting", weighting, ("samples", "uniform")), ("pca", pca, ("gram", "lowrank"))):
        if value not in allowed:
            raise UserError(f"rflbat: {key}={value!r}{nearest(value, allowed)}; allowed: {', '.join(allowed)}")

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        return _steps(updates, draw, (clusters, smallest), (eps1, eps2), weighting, pca)

    def num_uniforms(clients: int, parameters: int) -> int:
        return uniforms_drawn(clients, COMPONENTS, clusters)

    return Defense("rflbat", STAGES, apply, num_uniforms=num_uniforms, needs_all_columns=pca == "lowrank")


def _steps(
    updates: Updates,
    draw: Draw,
    choice: tuple[int | str, float],
    eps: tuple[float, float],
    weighting: str,
    back_end: str,
) -> Decision:
    """Run the server steps of algorithm 1 in order."""
    clusters, smallest = choice
    points_NH = coordinates(updates, back_end)
    survivor_N = passes_filter(points_NH, updates.valid_N, eps[0])

    label_N, count = cluster(points_NH, survivor_N, clusters, draw)
    few = survivor_N.sum() < 3
    label_N = torch.where(few, 0, label_N)
    member_KN = (label_N == torch.arange(candidates(clusters)[-1], device=label_N.device)[:, None]) & survivor_N
    score_K, similarity_N = cluster_scores(updates.cosines_NN, member_KN)
    large_K = member_KN.sum(1) >= smallest * survivor_N.sum()
    admitted_K = torch.where((large_K & score_K.isfinite()).any(), large_K, True)
    chosen_N = survivor_N & (label_N == torch.where(admitted_K, score_K, torch.inf).argmin())
    kept_N = passes_filter(points_NH, chosen_N, eps[1])

    stage_N = torch.where(chosen_N, 4, torch.where(survivor_N, 3, 2))
    return decide(
        updates,
        torch.where(kept_N, updates.sizes_N if weighting == "samples" else 1.0, 0.0),
        similarity_N,
        stage_N=torch.where(kept_N, 0, stage_N),
        coordinates=points_NH,
        cluster=torch.where(survivor_N, label_N, -1),
        cluster_scores=score_K,
        clusters=torch.where(few, 1, count),
    )
