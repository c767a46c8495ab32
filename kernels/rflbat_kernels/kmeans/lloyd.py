"""Lloyd's algorithm, batched over many runs of k-means.

Axes: M point sets, Q runs of a set, N points, K clusters, P = K Q centres of a set, H coordinates,
J = H + 1 (the coordinates and a constant 1).
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

TINY = 1e-290
"""Lower bound of every squared distance in the ranking."""
WORTH = 0.75
"""Compact the batch to the runs that still move once at most this fraction does; compaction costs microseconds."""


def lloyd(
    points_MNH: Tensor, weights_MN: Tensor, centres_MQKH: Tensor, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Run Lloyd's algorithm for all runs; return labels, centres and inertia.

    Each point belongs to its nearest centre (ties, up to rounding, go to the first), and each centre moves to the mean
    of its points; a centre without points stays. A CPU skips runs whose centres stand still, with the same result.

    Args:
        points_MNH: float64, coordinates within 1 of the origin.
        weights_MN: float64, 1 for valid points and 0 for invalid ones, which must be finite.
        centres_MQKH: float64, start centres of each run.
        iterations: number of rounds, at least 0.

    Returns:
        labels (M, Q, N) int64; centres (M, Q, K, H); inertia (M, Q), the weighted sum of squared distances.

    Example:
        >>> points = torch.tensor([[[0.0], [0.5], [1.0]]]).double()
        >>> found = lloyd(points, torch.ones(1, 3).double(), torch.tensor([[[[0.0], [0.9]]]]).double(), 5)
        >>> [part.flatten().tolist() for part in found]
        [[0, 1, 1], [0.0, 0.75], [0.125]]

    Source: Lloyd 1982.
    """
    rounds = _Rounds(points_MNH, weights_MN, centres_MQKH.shape[2])
    centres_MJKQ = pad(centres_MQKH, (0, 1), value=1.0).permute(0, 3, 2, 1).contiguous()
    centres_MJKQ = (_settled if points_MNH.device.type == "cpu" else _moved)(rounds, centres_MJKQ, iterations)
    squared_MKQN, nearest_MKQN = rounds.assign(centres_MJKQ)
    inertia_MQ = (squared_MKQN.mul_(nearest_MKQN).sum(1) * weights_MN[:, None]).sum(2)
    labels_MQN = nearest_MKQN.mul_(rounds.numbers_K11).sum(1).to(torch.int64)
    return labels_MQN, centres_MJKQ[:, :-1].permute(0, 3, 2, 1), inertia_MQ


class _Rounds:
    """Rounds of Lloyd's algorithm in reused memory: on a CPU fresh pages cost more than the arithmetic."""

    def __init__(self, points_MNH: Tensor, weights_MN: Tensor, clusters: int) -> None:
        self.columns = [column[:, None, None, :] for column in points_MNH.unbind(2)]
        self.summands_MJN = torch.cat([points_MNH.mT, weights_MN[:, None]], 1)
        self.numbers_K11 = torch.arange(clusters, dtype=torch.float64, device=points_MNH.device)[:, None, None]
        # Ranking by (d + tiny) (1 + k 2^-50) makes the distances of a point distinct, so "equals the minimum" holds
        # for one cluster only, the first of a tie. An argmin would cost more than the rest of the iteration.
        self.shade_K11 = 1.0 + self.numbers_K11 * 2.0**-50
        self.tiny_K11 = self.shade_K11 * TINY
        self.room = points_MNH.new_empty(0)

    def assign(self, centres_MJKQ: Tensor) -> tuple[Tensor, Tensor]:
        """Compute squared distances to the centres and the 0/1 indicator of each nearest one, both (M, K, Q, N)."""
        sets, _, clusters, runs = centres_MJKQ.shape
        shape = 3, sets, clusters, runs, self.summands_MJN.shape[2]
        if self.room.numel() < math.prod(shape):
            self.room = centres_MJKQ.new_empty(math.prod(shape))
        squared_MKQN, nearest_MKQN, spare_MKQN = self.room[: math.prod(shape)].view(shape)
        _squared(self.columns, centres_MJKQ[..., None], squared_MKQN, spare_MKQN)
        torch.addcmul(self.tiny_K11, squared_MKQN, self.shade_K11, out=nearest_MKQN)
        return squared_MKQN, nearest_MKQN.eq_(nearest_MKQN.amin(1, keepdim=True))

    def move(self, centres_MJKQ: Tensor) -> Tensor:
        """Move each centre to the mean of its points."""
        nearest_MPN = self.assign(centres_MJKQ)[1].flatten(1, 2)
        # Weight the old centre by 2^-900: negligible if the cluster has members, decisive if it is empty, so that an
        # empty cluster keeps its centre.
        sums_MJP = torch.baddbmm(centres_MJKQ.flatten(2), self.summands_MJN, nearest_MPN.mT, beta=2.0**-900)
        return (sums_MJP / sums_MJP[:, -1:]).view(centres_MJKQ.shape)


def _moved(rounds: _Rounds, centres_MJKQ: Tensor, iterations: int) -> Tensor:
    """Move the centres of all runs ``iterations`` times."""
    for _ in range(iterations):
        centres_MJKQ = rounds.move(centres_MJKQ)
    return centres_MJKQ


def _settled(rounds: _Rounds, centres_MJKQ: Tensor, iterations: int) -> Tensor:
    """Move the centres as ``_moved`` does, but skip runs in which no centre moved, since they have converged.

    For CPU tensors only: on a GPU the test for convergence would synchronise.
    """
    found_MJKQ, going_Q = centres_MJKQ.clone(), torch.arange(centres_MJKQ.shape[3])
    for _ in range(iterations):
        after_MJKQ = rounds.move(centres_MJKQ)
        moving_Q = (after_MJKQ != centres_MJKQ).flatten(0, 2).any(0)
        centres_MJKQ = after_MJKQ
        if int(moving_Q.sum()) <= WORTH * len(moving_Q):
            found_MJKQ[..., going_Q] = centres_MJKQ
            going_Q, centres_MJKQ = going_Q[moving_Q], centres_MJKQ[..., moving_Q]
        if not len(going_Q):
            break
    found_MJKQ[..., going_Q] = centres_MJKQ
    return found_MJKQ


def _squared(columns: list[Tensor], centres_MJKQ1: Tensor, total: Tensor, difference: Tensor) -> None:
    """Write the squared distances (M, K, Q, N) of all points to all centres to ``total``, from explicit differences."""
    torch.sub(columns[0], centres_MJKQ1.select(1, 0), out=total)
    total.mul_(total)
    for h, column in enumerate(columns[1:], 1):
        torch.sub(column, centres_MJKQ1.select(1, h), out=difference)
        total.addcmul_(difference, difference)
