"""Bucketing: means of small random groups of updates.

Axes: N clients of the round, K buckets.
"""

import torch

from rflbat.defenses.base import Updates
from rflbat.errors import UserError
from rflbat.randomness import Draw
from rflbat.transforms.base import Transform, Transformed, transformed


def bucketing(*, s: int = 2) -> Transform:
    """Shuffle the updates and replace each run of ``s`` of them by their mean.

    Args:
        s: updates of a bucket, at least 1 (2).

    Returns:
        the transform.

    Raises:
        UserError: s is out of range.

    Conventions:
        A permutation of the n finite updates, drawn by key in each round; the last bucket may hold fewer and counts as
        one. Plain means within a bucket; a bucket stands for the sum of its numbers of samples. The defense's f stays.

    Needs:
        The Gram matrix; N uniforms.

    Fails:
        A single malicious update spoils its bucket, so the share of spoiled buckets is up to s times that of malicious
        clients. Defenses that remember clients are refused.

    Example:
        >>> import rflbat, numpy
        >>> updates = numpy.array([[0.0], [1.0], [2.0], [3.0]])
        >>> rflbat.aggregate(updates, "fedavg", before="bucketing(s=4)").update.tolist()
        [1.5]

    Source: Karimireddy, He and Jaggi 2022, "Byzantine-robust learning on heterogeneous datasets via bucketing",
    algorithm 1.
    """
    if s < 1:
        raise UserError(f"transform 'bucketing': s={s} is out of range; allowed: at least 1")

    def apply(updates: Updates, draw: Draw) -> Transformed:
        valid_N = updates.valid_N
        clients = len(valid_N)
        # Rows that are not valid come last, so that they share no bucket that counts with others.
        order_N = (draw(clients) + (~valid_N).to(torch.float64)).argsort(stable=True)
        place_N = torch.zeros_like(order_N).scatter(0, order_N, torch.arange(clients, device=order_N.device))
        bucket_N = place_N // s
        member_KN = (bucket_N == torch.arange(-(-clients // s), device=order_N.device)[:, None]) & valid_N
        count_K = member_KN.sum(1)
        shares_KN = member_KN / count_K[:, None].clamp_min(1).to(torch.float64)
        sizes_K = torch.where(member_KN, updates.sizes_N, 0).sum(1)
        return transformed(updates, shares_KN, count_K > 0, bucket_N, sizes_K)

    return Transform("bucketing", apply, lambda clients: -(-clients // s), lambda clients: clients)
