"""Bulyan: repeated Krum selects clients, and each coordinate is averaged near the median of the selected values.

Axes: N clients of the round.
"""

import torch
from torch import Tensor

from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.defenses.krum import assumed_malicious, check_f
from rflbat.randomness import Draw
from rflbat_kernels import column_central_mean


def selection_order(squared_NN: Tensor, valid_N: Tensor, f: Tensor, wanted: Tensor) -> Tensor:
    """Select clients by repeated Krum, one per turn, each from the clients that remain.

    With m clients remaining, each is scored by the sum of its squared distances to its ``m - f - 2`` nearest remaining
    clients (at least one). The client with the lowest score is selected; ties go to the first. Distances are sorted
    once, and each turn only masks the clients already selected.

    Args:
        squared_NN: ``||d_i - d_j||^2``.
        valid_N: bool, clients to select from.
        f: assumed number of malicious clients, 0-dim int64.
        wanted: number of clients to select, 0-dim int64, at most the number of valid clients.

    Returns:
        turn in which each client was selected, from 0, ``(N,)`` float64; +inf for the others.
    """
    clients_N = torch.arange(len(valid_N), device=valid_N.device)
    others_NN = valid_N[None, :] & (clients_N[:, None] != clients_N[None, :])
    nearest_NN, neighbour_NN = torch.where(others_NN, squared_NN, torch.inf).sort(dim=1, stable=True)
    there_NN, place_NN = others_NN.gather(1, neighbour_NN), neighbour_NN.argsort(1)
    remaining_N = valid_N
    turn_N = torch.full_like(squared_NN[0], torch.inf)
    for turn in range(len(valid_N)):
        neighbours = (remaining_N.sum() - f - 2).clamp_min(1)
        counted_NN = there_NN & (there_NN.cumsum(1, dtype=torch.int32) <= neighbours)
        scores_N = torch.where(remaining_N, torch.where(counted_NN, nearest_NN, 0.0).sum(1), torch.inf)
        first = scores_N.argmin()
        winner_N = remaining_N & (clients_N == first) & (wanted > turn)
        turn_N = torch.where(winner_N, float(turn), turn_N)
        remaining_N = remaining_N & ~winner_N
        # Remove the winner from every client's sorted neighbour list; it occurs exactly once in each.
        place_N1 = place_NN.index_select(1, first[None])
        there_NN.scatter_(1, place_N1, there_NN.gather(1, place_N1) & ~winner_N.any())
    return turn_N


def bulyan(*, f: int | str | None = None) -> Defense:
    """Select ``n - 2 f`` clients by Krum, then average in each coordinate the selected values nearest their median.

    Repeated Krum selects ``theta = n - 2 f`` clients, each from those that remain. Each coordinate of the update is the
    mean of the ``theta - 2 f`` selected values nearest to the median of the selected values; of two equally distant
    values the lower is taken. Numbers of samples are ignored; each selected client has weight ``1 / theta``. With ``n <
    4 f + 3`` finite updates, f is lowered to ``floor((n - 3) / 4)``, at least 0. If f is at most 2, the last two
    clients are scored by one neighbour each, namely each other. Their scores are equal and the first is selected.

    Args:
        f: assumed number of malicious clients, at least 0, with ``4 f + 3`` at most the number of clients per round.
            Default: the largest such value, at least 0. "true" uses the real number, capped at the largest such value
            (an oracle that only a simulation has).

    Returns:
        the defense. Its score is the position in the order of selection, from 0; +inf for clients that were not
        selected.

    Raises:
        UserError: f is negative or a string other than "true".

    Conventions:
        Krum is run again on the clients that remain, not just once. Of two values equally far from the median the lower
        is taken.

    Needs:
        The Gram matrix, then the coordinates of the selected updates; ``n >= 4 f + 3``.

    Fails:
        Beyond a quarter of malicious clients, where its own condition no longer holds. It discards many honest updates.

    Example:
        >>> import rflbat, numpy
        >>> updates = numpy.array([[1.0], [2.0], [2.5], [3.0], [4.0], [4.5], [90.0]])
        >>> decision = rflbat.aggregate(updates, "bulyan", f=1)
        >>> decision.kept.tolist(), decision.update.tolist()
        ([True, True, True, True, True, False, False], [2.5])

    Source: El Mhamdi, Guerraoui and Rouault 2018, section 4 (Bulyan of Krum).
    """
    check_f(f)

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        count = updates.valid_N.sum()
        largest = ((count - 3) // 4).clamp_min(0)
        malicious = largest if f is None else torch.minimum(assumed_malicious(updates, f), largest)
        wanted = count - 2 * malicious
        turn_N = selection_order(updates.squared_distances_NN, updates.valid_N, malicious, wanted)
        selected_N = turn_N < torch.inf
        update_D = column_central_mean(updates.matrix_ND, wanted - 2 * malicious, selected_N)
        stage_N = torch.where(selected_N, 0, 2)
        return decide(updates, selected_N.to(torch.float64), turn_N, update_D=update_D, stage_N=stage_N)

    least = 4 * f + 3 if isinstance(f, int) else 1
    return Defense("bulyan", ("kept", "nonfinite", "bulyan"), apply, min_clients=least, weighs=False)
