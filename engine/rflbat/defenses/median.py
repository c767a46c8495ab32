"""The median of every coordinate."""

import torch

from rflbat.defenses.base import Decision, Defense, NoState, Updates
from rflbat.defenses.coordinatewise import decide_for
from rflbat.randomness import Draw
from rflbat_kernels import column_median


def median() -> Defense:
    """The median of every coordinate over the clients.

    Of an even number of clients it is the mean of the two middle values. Samples do not count: every client has the
    same voice. The weights are 1 / n for each of the n clients, since no weighted mean of updates gives the answer.

    Returns:
        the defense; its score is 0 for everybody.

    Conventions:
        Of an even number the mean of the two middle values; samples do not count.

    Needs:
        The updates themselves, coordinate by coordinate: no Gram matrix serves it.

    Fails:
        From half malicious clients on; with non-IID data, where the median of each coordinate is nobody's update.

    Example:
        >>> import rflbat, numpy
        >>> rflbat.aggregate(numpy.array([[1.0, 8.0], [2.0, 0.0], [90.0, 1.0]]), "median").update.tolist()
        [2.0, 1.0]

    Source: Yin, Chen, Ramchandran and Bartlett 2018, definition 1.
    """

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        update_D = column_median(updates.matrix_ND, updates.valid_N)
        return decide_for(updates, update_D, torch.ones_like(updates.sizes_N), torch.zeros_like(updates.sizes_N))

    return Defense("median", ("kept", "nonfinite"), apply, weighs=False)
