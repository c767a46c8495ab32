"""AUROR: drop clients that are often in the smaller of two clusters per coordinate.

Axes: N clients of the round, D parameters.
"""

import math

import torch
from torch import Tensor

from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.errors import UserError
from rflbat.randomness import Draw
from rflbat_kernels import column_two_means, minority_counts
from rflbat_kernels.sharding import all_columns, all_reduce, select_columns


def usual_limit(distance_D: Tensor) -> Tensor:
    """Compute the mean plus two population standard deviations of the distances.

    Args:
        distance_D: at least one finite number.

    Returns:
        0-dim tensor in the dtype of ``distance_D``. If all distances are equal, exactly that value.
    """
    first = select_columns(distance_D[None], torch.zeros(1, dtype=torch.int64, device=distance_D.device))[0, 0]
    far_D = distance_D - first
    scale = all_reduce(torch.cat([far_D.abs(), torch.zeros_like(first)[None]]).amax(), "max")
    far_D = far_D / torch.where(scale > 0, scale, 1.0)
    count = all_columns(len(far_D))
    mean = all_reduce(far_D.sum()) / count
    deviation = (all_reduce((far_D - mean).square().sum()) / count).sqrt()
    return first + scale * (mean + 2 * deviation)


def auror(*, alpha: float | None = None, share: float = 0.5) -> Defense:
    """Drop clients that are too often in the minority of the coordinates that separate the clients.

    1. In every coordinate, split the clients' values into two clusters. The split is exact: it has the smallest sum of
       squares; among equal splits, the one with the fewest low values.
    2. A coordinate is indicative if the distance between its two cluster centres exceeds ``alpha``.
    3. In an indicative coordinate the smaller cluster is suspicious. If both clusters are of equal size, neither is.
    4. Drop each client that is suspicious in more than ``share`` of the indicative coordinates.
    5. Average the remaining updates, weighted by number of samples.

    Without an indicative coordinate all clients are kept. Fewer than half of the clients are suspicious in any one
    coordinate, so with ``share`` of at least 1/2 at least one client is kept. With a smaller ``share`` all clients may
    be dropped; the update is 0 then.

    Args:
        alpha: distance of the centres above which a coordinate is indicative, at least 0. Default: the mean plus two
            standard deviations of these distances over all coordinates. (The paper fits it to each data set.)
        share: largest share of the indicative coordinates in which a kept client may be suspicious, 0 to 1 (0.5).

    Returns:
        the defense. Its score is the share of indicative coordinates in which a client was suspicious.

    Raises:
        UserError: a value is out of range.

    Conventions:
        Two clusters per coordinate, split exactly rather than by k-means. Of two equally large clusters neither is
        suspicious.

    Needs:
        Two passes over the coordinates of the updates.

    Fails:
        From half malicious clients on, where the honest clients are the minority. With the default threshold few
        coordinates are indicative, so an attack that moves many coordinates a little goes undetected.

    Example:
        >>> import rflbat, numpy
        >>> updates = numpy.array([[0.0, 0.0], [0.1, 0.0], [0.2, 0.1], [5.0, 0.1]])
        >>> rflbat.aggregate(updates, "auror", alpha=1).kept.tolist()
        [True, True, True, False]

    Source: Shen, Tople and Saxena 2016, "Auror: defending against poisoning attacks in collaborative deep learning
    systems", section 4.
    """
    if alpha is not None and not 0 <= alpha < math.inf:
        raise UserError(f"auror: alpha={alpha} is out of range; allowed: finite numbers of at least 0")
    if not 0 <= share <= 1:
        raise UserError(f"auror: share={share} is out of range; allowed: 0 to 1")

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        split = column_two_means(updates.matrix_ND, updates.valid_N)
        indicative_D = split.distance_D > (usual_limit(split.distance_D) if alpha is None else alpha)
        count_N = torch.where(updates.valid_N, minority_counts(updates.matrix_ND, split, indicative_D), 0)
        suspicious_N = count_N.to(torch.float64) / all_reduce(indicative_D.sum()).clamp_min(1)
        trusted_N = suspicious_N <= share
        stage_N = torch.where(trusted_N, 0, 2)
        return decide(updates, torch.where(trusted_N, updates.sizes_N, 0.0), suspicious_N, stage_N=stage_N)

    return Defense("auror", ("kept", "nonfinite", "auror"), apply)
