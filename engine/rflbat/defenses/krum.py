"""Krum and Multi-Krum.

Axes: N clients of the round.
"""

import torch
from torch import Tensor

from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.errors import UserError
from rflbat.randomness import Draw

STAGES = ("kept", "nonfinite", "distant")


def assumed_malicious(updates: Updates, f: int | str | None) -> Tensor:
    """Resolve the assumed number of malicious clients f.

    Args:
        updates: the round's updates.
        f: a number; "true" for the real number; None for the largest with ``n >= 2 f + 3``, at least 0.

    Returns:
        0-dim int64 tensor.

    Raises:
        UserError: f is "true" and the real number is unknown.
    """
    if f is None:
        return ((updates.valid_N.sum() - 3) // 2).clamp_min(0)
    if f == "true":
        if updates.malicious_count is None:
            raise UserError('f="true" needs the real number of malicious clients, which only a simulation knows')
        return updates.malicious_count
    return torch.full_like(updates.client_ids_N[0], int(f))


def check_f(f: int | str | None) -> None:
    """Check the parameter f when a defense is built.

    Args:
        f: as in ``assumed_malicious``.

    Raises:
        UserError: f is negative or a string other than "true".
    """
    if isinstance(f, str) and f != "true":
        raise UserError(f"f={f!r}; allowed: a number of clients or 'true'")
    if isinstance(f, int) and f < 0:
        raise UserError(f"f={f} is out of range; allowed: at least 0 clients, or 'true'")


def krum_scores(updates: Updates, f: Tensor) -> Tensor:
    """Compute the sum of squared distances of each client to its ``n - f - 2`` nearest other clients (at least one).

    Args:
        updates: the round's updates.
        f: assumed number of malicious clients, 0-dim.

    Returns:
        scores ``(N,)``; +inf for rows that are not valid.
    """
    valid_N = updates.valid_N
    clients = len(valid_N)
    ranks = torch.arange(clients, device=valid_N.device)
    others_NN = valid_N[None, :] & (ranks[:, None] != ranks[None, :])
    nearest_NN = torch.where(others_NN, updates.squared_distances_NN, torch.inf).sort(dim=1).values
    neighbours = (valid_N.sum() - f - 2).clamp_min(1)
    counted_NN = (ranks[None, :] < neighbours) & nearest_NN.isfinite()
    return torch.where(valid_N, torch.where(counted_NN, nearest_NN, 0).sum(1), torch.inf)


def _lowest(scores_N: Tensor, count: Tensor) -> Tensor:
    """Mark the ``count`` lowest scores; ties go to the first."""
    order_N = scores_N.argsort(stable=True)
    return torch.zeros_like(order_N).scatter(0, order_N, torch.arange(len(order_N), device=order_N.device)) < count


def _choose(name: str, f: int | str | None, count: int | None) -> Defense:
    check_f(f)

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        assumed = assumed_malicious(updates, f)
        scores_N = krum_scores(updates, assumed)
        wanted = (updates.valid_N.sum() - assumed).clamp_min(1)
        if count is not None:
            wanted = torch.full_like(assumed, min(count, len(scores_N)))
        chosen_N = _lowest(scores_N, wanted) & updates.valid_N
        return decide(updates, chosen_N.to(torch.float64), scores_N, stage_N=torch.where(chosen_N, 0, 2))

    # n - f - 2 neighbours must be at least one.
    return Defense(name, STAGES, apply, min_clients=f + 3 if isinstance(f, int) else 1)


def krum(*, f: int | str | None = None) -> Defense:
    """Take the one update that is closest to its nearest neighbours.

    ``s_i = sum of ||d_i - d_j||^2`` over the ``n - f - 2`` nearest others j. The update with the smallest ``s_i`` alone
    is the server update. Distances are squared, and a client is not its own neighbour.

    Args:
        f: assumed number of malicious clients, at least 0. Default: the largest with ``n >= 2 f + 3``. "true" uses the
            real number (an oracle that only a simulation has).

    Returns:
        the defense. Its score is ``s_i``.

    Raises:
        UserError: f is negative or a string other than "true".

    Conventions:
        Squared distances; ``n - f - 2`` neighbours, at least one, without the client itself; ties go to the first.

    Needs:
        The Gram matrix. The number f of malicious clients, which is unknown outside a simulation.

    Fails:
        If f is assumed too small. With non-IID data, since the one update it takes is that of a single client. Against
        ``n - f - 1`` or more attackers that stay close to each other.

    Example:
        >>> import rflbat, numpy
        >>> rflbat.aggregate(numpy.array([[0.0], [1.0], [1.1], [1.3], [9.0]]), "krum", f=1).update.tolist()
        [1.1]

    Source: Blanchard et al. 2017, section 4.
    """
    return _choose("krum", f, 1)


def multikrum(*, f: int | str | None = None, m: int | None = None) -> Defense:
    """Average the m updates with the lowest Krum scores.

    Args:
        f: assumed number of malicious clients, as in Krum; the paper's experiments use the real number.
        m: number of updates to average, at least 1. Default: ``n - f``.

    Returns:
        the defense. Its score is Krum's.

    Raises:
        UserError: f or m is out of range.

    Conventions:
        As Krum. The plain mean of the m updates, regardless of numbers of samples; ``m = n - f``.

    Needs:
        The Gram matrix and f.

    Fails:
        Like Krum. From half malicious clients on, attackers that agree are each other's nearest neighbours.

    Example:
        >>> import rflbat, numpy
        >>> rflbat.aggregate(numpy.array([[0.0], [1.0], [2.0], [1.5], [9.0]]), "multikrum", f=1).kept.tolist()
        [True, True, True, True, False]

    Source: Blanchard et al. 2017, section 4 (m-Krum).
    """
    if m is not None and m < 1:
        raise UserError(f"multikrum: m={m} is out of range; allowed: at least 1")
    return _choose("multikrum", f, m)
