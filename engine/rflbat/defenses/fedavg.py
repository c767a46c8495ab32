"""FedAvg: no defense, the floor of every comparison."""

import torch

from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.randomness import Draw


def fedavg() -> Defense:
    """The mean of all updates, weighted by samples: ``sum n_i d_i / sum n_i``.

    Returns:
        the defense; its score is 0 for everybody.

    Conventions:
        Weighted by samples; divided by the weight of who is kept, so a dropped client does not shrink the step.

    Needs:
        Nothing: one weighted sum.

    Fails:
        Whenever somebody attacks: one client with a scaled update moves the mean as far as it likes.

    Example:
        >>> import rflbat, numpy
        >>> rflbat.aggregate(numpy.array([[1.0], [4.0]]), "fedavg", sizes=[2, 1]).update.tolist()
        [2.0]

    Source: McMahan et al. 2017, algorithm 1.
    """

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        return decide(updates, updates.sizes_N, torch.zeros_like(updates.sizes_N))

    return Defense("fedavg", ("kept", "nonfinite"), apply)
