"""AUROR: clients that often fall into the smaller of two clusters of a coordinate are dropped.

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
    """Mean plus two population standard deviations.

    Args:
        distance_D: at least one finite number.

    Returns:
        0-dim, in the numbers' own type; equal numbers give exactly that number.
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
    """Drop who is in the minority too often in the coordinates that divide the clients.

    1. In every coordinate the clients' values are divided into two clusters, exactly (the division with the least sum
    of squares; of equal ones the one with the fewest low values). 2. A coordinate is indicative if the distance of
    the two centres exceeds alpha. 3. In an indicative coordinate the smaller cluster is suspicious; of equal ones,
    neither. 4. A client that is suspicious in more than ``share`` of the indicative coordinates is dropped. 5. The
    mean of the others, weighted by samples. Without an indicative coordinate everybody is kept.
    In each coordinate fewer than half of the clients are suspicious, so that with a share of at least 1/2 somebody is
    always left; below, nobody may be, and the update is 0 then.

    Args:
        alpha: distance of the centres above which a coordinate is indicative, at least 0; default the mean plus two
            standard deviations of these distances over all coordinates. (The paper fits it to each data set.)
        share: of the indicative coordinates, 0 to 1 (0.5).

    Returns:
        the defense; its score is the share of indicative coordinates in which a client was suspicious.

    Raises:
        UserError: a value out of its range.

    Conventions:
        Two clusters a coordinate, exactly and not by k-means; of equal clusters neither is suspicious.

    Needs:
        The updates coordinate by coordinate, twice.

    Fails:
        From half malicious clients on, where the minority is honest; with the default threshold few coordinates are
        indicative, so that an attack that moves many a little is not seen.

    Example:
        >>> import rflbat, numpy
        >>> updates = numpy.array([[0.0, 0.0], [0.1, 0.0], [0.2, 0.1], [5.0, 0.1]])
        >>> rflbat.aggregate(updates, "auror", alpha=1).kept.tolist()
        [True, True, True, False]

    Source: Shen, Tople and Saxena 2016, "Auror: defending against poisoning attacks in collaborative deep learning
    systems", section 4.
    """
    if alpha is not None and not 0 <= alpha < math.inf:
        raise UserError(f"auror: alpha={alpha} is not a number of at least 0")
    if not 0 <= share <= 1:
        raise UserError(f"auror: share={share} is not a number from 0 to 1")

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        split = column_two_means(updates.matrix_ND, updates.valid_N)
        indicative_D = split.distance_D > (usual_limit(split.distance_D) if alpha is None else alpha)
        count_N = torch.where(updates.valid_N, minority_counts(updates.matrix_ND, split, indicative_D), 0)
        suspicious_N = count_N.to(torch.float64) / all_reduce(indicative_D.sum()).clamp_min(1)
        trusted_N = suspicious_N <= share
        stage_N = torch.where(trusted_N, 0, 2)
        return decide(updates, torch.where(trusted_N, updates.sizes_N, 0.0), suspicious_N, stage_N=stage_N)

    return Defense("auror", ("kept", "nonfinite", "auror"), apply)
