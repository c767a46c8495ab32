"""The training samples of every client of a round, drawn on the host for all clients at once.

Axes: N clients of the round, S local steps, B batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rflbat.transfer import transfer


@dataclass(frozen=True)
class Batches:
    """The mini-batches of a round.

    Args:
        index_NSB: int64, position of each sample in the training set. Padding repeats a sample of the same client.
        weight_NSB: float32, 1 for a sample and 0 for padding.
        poisoned_NSB: bool, samples that the attack stamps and relabels.
    """

    index_NSB: Tensor
    weight_NSB: Tensor
    poisoned_NSB: Tensor

    def to(self, device: torch.device | str) -> "Batches":
        """Copy the batches to a device.

        Args:
            device: device of training.

        Returns:
            the same batches on the device.
        """
        return Batches(**transfer(vars(self), device))


def _epochs(
    samples: np.ndarray, steps: int, batch: int, stream: np.random.Generator, drop_last: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Split shuffled epochs of one client into ``steps`` batches; the last batch of an epoch may be short."""
    index_SB = np.full((steps, batch), samples[0], np.int64)
    present_SB = np.zeros((steps, batch), bool)
    per_epoch = max(1, len(samples) // batch) if drop_last else -(-len(samples) // batch)
    for first in range(0, steps, per_epoch):
        order = stream.permutation(samples)[: min(per_epoch, steps - first) * batch]
        at = slice(first * batch, first * batch + len(order))
        index_SB.reshape(-1)[at], present_SB.reshape(-1)[at] = order, True
    return index_SB, present_SB


def draw_batches(
    samples: Sequence[np.ndarray],
    malicious_N: np.ndarray,
    stream: np.random.Generator,
    *,
    steps: int,
    batch: int,
    poison_fraction: float,
    drop_last: bool = False,
) -> Batches:
    """Draw the mini-batches of all clients of a round, and which of their samples are poisoned.

    A client iterates over its samples in shuffled epochs, as a data loader does. The last batch of an epoch holds the
    remaining samples, or is left out with ``drop_last``. A client with fewer than B samples uses all of them in every
    step. Short batches are padded with the client's first sample at weight 0. In each batch of a malicious client the
    first ``floor(share * samples + 1/2)`` samples are poisoned. Their order is random, so for a share of 1/2 this is a
    random half. Roles do not affect the draws.

    Args:
        samples: per client of the round, the positions of its samples in the training set; none empty.
        malicious_N: bool, clients that poison their batches.
        stream: the random stream of (seed, "batches", round).
        steps: local steps S, at least 1.
        batch: batch size B, at least 1.
        poison_fraction: share of a malicious batch that is poisoned, 0 to 1.
        drop_last: leave out a short last batch of an epoch, unless it is the only one.

    Returns:
        the batches, on the host.

    Example:
        >>> draws = draw_batches([np.arange(5)], np.array([True]), np.random.default_rng(0), steps=2, batch=4,
        ...                     poison_fraction=0.5)
        >>> draws.weight_NSB.sum(-1).tolist(), draws.poisoned_NSB.sum(-1).tolist()
        ([[4.0, 1.0]], [[2, 1]])

    Source: Wang et al. 2022 (RFLBAT), section 3.2: half of each malicious batch carries the backdoor.
    """
    drawn = [_epochs(own, steps, batch, stream, drop_last) for own in samples]
    index_NSB = np.stack([index for index, _ in drawn])
    present_NSB = np.stack([present for _, present in drawn])
    count_NS1 = present_NSB.sum(-1, keepdims=True)
    poisoned_NSB = np.arange(batch) < np.floor(poison_fraction * count_NS1 + 0.5)
    poisoned_NSB &= malicious_N[:, None, None]
    return Batches(
        torch.from_numpy(index_NSB),
        torch.from_numpy(present_NSB.astype(np.float32)),
        torch.from_numpy(poisoned_NSB),
    )
