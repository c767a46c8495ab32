"""Coordinate-wise trimmed mean."""

import torch

from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.defenses.krum import assumed_malicious, check_f
from rflbat.randomness import Draw
from rflbat_kernels import column_trimmed_mean


def trimmed_mean(*, f: int | str | None = None) -> Defense:
    """Average every coordinate without its f largest and f smallest values.

    Numbers of samples are ignored. The update is no weighted mean of updates, so each of the n clients has the nominal
    weight 1 / n. If non-finite updates leave fewer than ``2 f + 1`` clients, f is lowered to ``floor((n - 1) / 2)``.

    Args:
        f: number of values dropped at each end, at least 0, with ``2 f + 1`` at most the number of clients per round.
            Default: the largest such value, ``floor((n - 1) / 2)``, which leaves the one or two middle values and hence
            the median. "true" uses the real number of malicious clients (an oracle that only a simulation has).

    Returns:
        the defense. Its score is 0 for all clients.

    Raises:
        UserError: f is negative or a string other than "true".

    Conventions:
        Values are dropped in each coordinate separately. f is at most ``floor((n - 1) / 2)``, which gives the median.

    Needs:
        The coordinates of the updates, and f.

    Fails:
        With more than f malicious clients. With fewer, it still lets through values inside the honest range.

    Example:
        >>> import rflbat, numpy
        >>> rflbat.aggregate(numpy.array([[-50.0], [1.0], [3.0], [90.0]]), "trimmed_mean", f=1).update.tolist()
        [2.0]

    Source: Yin, Chen, Ramchandran and Bartlett 2018, definition 2 (beta = f / n).
    """
    check_f(f)

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        largest = (updates.valid_N.sum() - 1) // 2
        trim = largest if f is None else assumed_malicious(updates, f)
        update_D = column_trimmed_mean(updates.matrix_ND, trim, updates.valid_N)
        return decide(updates, torch.ones_like(updates.sizes_N), torch.zeros_like(updates.sizes_N), update_D=update_D)

    return Defense(
        "trimmed_mean", ("kept", "nonfinite"), apply, min_clients=2 * f + 1 if isinstance(f, int) else 1, weighs=False
    )
