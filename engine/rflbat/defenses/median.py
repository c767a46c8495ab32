"""Coordinate-wise median."""

import torch

from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.randomness import Draw
from rflbat_kernels import column_median


def median() -> Defense:
    """Take the median of every coordinate over the clients.

    For an even number of clients it is the mean of the two middle values. Numbers of samples are ignored: every client
    counts the same. The update is no weighted mean of updates, so each of the n clients has the nominal weight 1 / n.

    Returns:
        the defense. Its score is 0 for all clients.

    Conventions:
        The median of an even number of values is the mean of the two middle ones; numbers of samples are ignored.

    Needs:
        The coordinates of the updates; a Gram matrix does not suffice.

    Fails:
        From half malicious clients on. With non-IID data, where the coordinate-wise median resembles no client's
        update.

    Example:
        >>> import rflbat, numpy
        >>> rflbat.aggregate(numpy.array([[1.0, 8.0], [2.0, 0.0], [90.0, 1.0]]), "median").update.tolist()
        [2.0, 1.0]

    Source: Yin, Chen, Ramchandran and Bartlett 2018, definition 1.
    """

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        update_D = column_median(updates.matrix_ND, updates.valid_N)
        return decide(updates, torch.ones_like(updates.sizes_N), torch.zeros_like(updates.sizes_N), update_D=update_D)

    return Defense("median", ("kept", "nonfinite"), apply, weighs=False)
