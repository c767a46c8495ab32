"""The training samples of every client of a round, drawn on the host for all clients at once.

Axes: N clients of the round, S local steps, B batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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

    def replaced(self, rows: np.ndarray, others: "Batches") -> "Batches":
        """Return these batches with those of some clients replaced; shorter ones get steps without samples.

        Args:
            rows: positions of these clients, M of them.
            others: their M batches, with a number of steps of their own.

        Returns:
            the batches of all clients.
        """
        steps = max(self.index_NSB.shape[1], others.index_NSB.shape[1])
        # Padding repeats the first sample, as in a short batch.
        index_NSB, fresh_NSB = (_padded(each.index_NSB, steps, each.index_NSB[:, :1, :1]) for each in (self, others))
        index_NSB[rows] = fresh_NSB
        named = {"index_NSB": index_NSB}
        for name in ("weight_NSB", "poisoned_NSB"):
            own, other = (_padded(getattr(each, name), steps, 0) for each in (self, others))
            own[rows] = other
            named[name] = own
        return Batches(**named)

    def with_extra(self, extra: range, stream: np.random.Generator) -> "Batches":
        """Return these batches with every poisoned sample replaced by one of the attack's own, drawn with replacement.

        One is drawn for each position, poisoned or not, so roles and shares do not affect the draws.

        Args:
            extra: positions of these samples in the training set.
            stream: random stream of the round.

        Returns:
            the batches.
        """
        drawn_NSB = torch.from_numpy(stream.integers(extra.start, extra.stop, self.index_NSB.shape))
        return replace(self, index_NSB=torch.where(self.poisoned_NSB, drawn_NSB, self.index_NSB))

    def joined(self, others: "Batches") -> "Batches":
        """Return these batches followed by those of further clients; shorter ones get steps without samples.

        Args:
            others: batches with a number of steps of their own.

        Returns:
            the batches of all clients.
        """
        steps = max(self.index_NSB.shape[1], others.index_NSB.shape[1])
        named = {}
        for name in vars(self):
            both = [getattr(each, name) for each in (self, others)]
            named[name] = torch.cat(
                [_padded(each, steps, each[:, :1, :1] if name == "index_NSB" else 0) for each in both]
            )
        return Batches(**named)


def _padded(values_NSB: Tensor, steps: int, filler: Tensor | int) -> Tensor:
    """Return a copy with ``steps`` steps, the further ones filled."""
    clients, own, batch = values_NSB.shape
    padded_NSB = values_NSB.new_empty(clients, steps, batch)
    padded_NSB[:, :own], padded_NSB[:, own:] = values_NSB, filler
    return padded_NSB


def _epochs(
    samples: np.ndarray, steps: int, batch: int, stream: np.random.Generator, drop_last: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Split shuffled epochs of one client into ``steps`` batches; the last batch of an epoch may be short."""
    index_SB = np.full((steps, batch), samples[0], np.int64)
    present_SB = np.zeros((steps, batch), bool)
    per_epoch = steps_of_epochs(len(samples), 1, batch, drop_last)
    for first in range(0, steps, per_epoch):
        order = stream.permutation(samples)[: min(per_epoch, steps - first) * batch]
        at = slice(first * batch, first * batch + len(order))
        index_SB.reshape(-1)[at], present_SB.reshape(-1)[at] = order, True
    return index_SB, present_SB


def steps_of_epochs(samples: int, epochs: int, batch: int, drop_last: bool) -> int:
    """Count the local steps of a client that trains for a number of epochs.

    Args:
        samples: number of samples of the client, at least 1.
        epochs: epochs, at least 1.
        batch: batch size B.
        drop_last: whether the short last batch of an epoch is left out.

    Returns:
        number of steps, at least one per epoch.

    Example:
        >>> steps_of_epochs(5, 2, 4, drop_last=False), steps_of_epochs(5, 2, 4, drop_last=True)
        (4, 2)
    """
    return epochs * (max(1, samples // batch) if drop_last else -(-samples // batch))


def draw_batches(
    samples: Sequence[np.ndarray],
    malicious_N: np.ndarray,
    stream: np.random.Generator,
    *,
    steps: int | Sequence[int],
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
        steps: local steps S, at least 1, or those of each client. Steps beyond a client's own hold no samples.
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
    own_steps = [steps] * len(samples) if isinstance(steps, int) else steps
    index_NSB = np.empty((len(samples), max(own_steps), batch), np.int64)
    present_NSB = np.zeros(index_NSB.shape, bool)
    for client, (own, count) in enumerate(zip(samples, own_steps, strict=True)):
        index_NSB[client] = own[0]
        index_NSB[client, :count], present_NSB[client, :count] = _epochs(own, count, batch, stream, drop_last)
    count_NS1 = present_NSB.sum(-1, keepdims=True)
    poisoned_NSB = np.arange(batch) < np.floor(poison_fraction * count_NS1 + 0.5)
    poisoned_NSB &= malicious_N[:, None, None]
    return Batches(
        torch.from_numpy(index_NSB),
        torch.from_numpy(present_NSB.astype(np.float32)),
        torch.from_numpy(poisoned_NSB),
    )
