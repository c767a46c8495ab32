"""FedAvg: the undefended baseline."""

import torch

from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.randomness import Draw


def fedavg() -> Defense:
    """Average all updates, weighted by number of samples: ``sum n_i d_i / sum n_i``.

    Returns:
        the defense. Its score is 0 for all clients.

    Conventions:
        Weighted by number of samples and divided by the total weight of the kept clients, so a dropped client does not
        shrink the step.

    Needs:
        Nothing but one weighted sum.

    Fails:
        Under any attack: one client with a scaled update can move the mean arbitrarily far.

    Example:
        >>> import rflbat, numpy
        >>> rflbat.aggregate(numpy.array([[1.0], [4.0]]), "fedavg", sizes=[2, 1]).update.tolist()
        [2.0]

    Source: McMahan et al. 2017, algorithm 1.
    """

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        return decide(updates, updates.sizes_N, torch.zeros_like(updates.sizes_N))

    return Defense("fedavg", ("kept", "nonfinite"), apply)
