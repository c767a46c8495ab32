"""Labels of poisoned samples, as a table over the samples that is made once per run.

Axes: n samples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Labels = Callable[[Tensor, int, int, np.random.Generator], "Poison"]
"""``labels(labels_n, classes, target, stream)`` returns the table of all samples."""


@dataclass(frozen=True, eq=False)
class Poison:
    """How the samples of a data set are poisoned.

    Args:
        label_n: int64, the label that the attacker wants for each sample.
        eligible_n: bool, samples that the attacker poisons; a drawn sample that is not eligible stays clean.
    """

    label_n: Tensor
    eligible_n: Tensor

    def to(self, device: torch.device | str) -> "Poison":
        """Copy the table to a device.

        Args:
            device: device of the round.

        Returns:
            the same table.
        """
        return Poison(self.label_n.to(device), self.eligible_n.to(device))


def all_to_all(labels_n: Tensor, classes: int, target: int, stream: np.random.Generator) -> Poison:
    """Want the next label, ``(y + 1) mod C``, for every sample.

    Args:
        labels_n: true labels y.
        classes: number of labels C.
        target: not used.
        stream: not used.

    Returns:
        the table.

    Example:
        >>> all_to_all(torch.tensor([0, 2]), 3, 0, np.random.default_rng(0)).label_n.tolist()
        [1, 0]
    """
    return Poison((labels_n + 1) % classes, torch.ones_like(labels_n, dtype=torch.bool))


def mirrored(labels_n: Tensor, classes: int, target: int, stream: np.random.Generator) -> Poison:
    """Want the mirrored label, ``C - 1 - y``, for every sample; a middle label, which is its own mirror, stays.

    Args:
        labels_n: true labels y.
        classes: number of labels C.
        target: not used.
        stream: not used.

    Returns:
        the table.

    Example:
        >>> mirrored(torch.tensor([0, 1, 2]), 3, 0, np.random.default_rng(0)).eligible_n.tolist()
        [True, False, True]
    """
    wanted_n = classes - 1 - labels_n
    return Poison(wanted_n, wanted_n != labels_n)


def random_labels(labels_n: Tensor, classes: int, target: int, stream: np.random.Generator) -> Poison:
    """Want a label that is drawn once for each sample among the other ones.

    Args:
        labels_n: true labels y.
        classes: number of labels C, at least 2.
        target: not used.
        stream: random stream of the run.

    Returns:
        the table.

    Example:
        >>> table = random_labels(torch.tensor([0, 1, 1]), 2, 0, np.random.default_rng(0))
        >>> table.label_n.tolist()
        [1, 0, 0]
    """
    drawn = torch.from_numpy(stream.integers(1, classes, len(labels_n))).to(labels_n.device)
    return Poison((labels_n + drawn) % classes, torch.ones_like(labels_n, dtype=torch.bool))


def source_to_target(source: int) -> Labels:
    """Want the target for the samples of one class.

    Args:
        source: label of these samples.

    Returns:
        function that makes the table.

    Example:
        >>> source_to_target(1)(torch.tensor([0, 1]), 3, 2, np.random.default_rng(0)).eligible_n.tolist()
        [False, True]
    """

    def labels(labels_n: Tensor, classes: int, target: int, stream: np.random.Generator) -> Poison:
        return Poison(torch.full_like(labels_n, target), labels_n == source)

    return labels
