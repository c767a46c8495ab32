"""Bulyan: Krum picks clients one after the other, and each coordinate is averaged near its median.

Axes: N clients of the round.
"""

import torch
from torch import Tensor

from rflbat.defenses.base import Decision, Defense, NoState, Updates
from rflbat.defenses.coordinatewise import decide_for
from rflbat.defenses.krum import assumed_malicious, check_f
from rflbat.randomness import Draw
from rflbat_kernels import column_central_mean


def selection_order(squared_NN: Tensor, valid_N: Tensor, f: Tensor, wanted: Tensor) -> Tensor:
    """Select clients by Krum, one at a time, each among those that remain.

    Of the m clients that remain, each is scored by the sum of its squared distances to the ``m - f - 2`` nearest of
    the others (at least one); the lowest score is selected, the first of equals. Distances are sorted once; then every
    turn only counts who is still there.

    Args:
        squared_NN: ``||d_i - d_j||^2``.
        valid_N: bool, clients to select from.
        f: assumed number of malicious clients, 0-dim int64.
        wanted: how many are selected, 0-dim int64, at most the valid ones.

    Returns:
        turn at which each client was selected, from 0, ``(N,)`` float64; +inf for the others.
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
        # Nobody counts the winner any more: among everybody's neighbours it has one place.
        place_N1 = place_NN.index_select(1, first[None])
        there_NN.scatter_(1, place_N1, there_NN.gather(1, place_N1) & ~winner_N.any())
    return turn_N


def bulyan(*, f: int | str | None = None) -> Defense:
    """Krum selects n - 2 f clients; each coordinate is the mean of the selected values nearest their median.

    ``theta = n - 2 f`` clients are selected by repeated Krum on those that remain, then each coordinate is the mean of
    the ``theta - 2 f`` selected values nearest to the selected values' median; of two as far the lower is taken.
    Samples do not count; each selected client weighs 1 / theta. With n < 4 f + 3 finite updates, f falls to
    ``floor((n - 3) / 4)``, at least 0. With f at most 2 the last to be selected is judged by its one nearest
    neighbour, whose score is the same: the first of the two is taken.

    Args:
        f: assumed number of malicious clients, at least 0, with ``4 f + 3`` at most the clients of a round; default
            the largest, at least 0; "true" gives it the real number, cut to the largest (an oracle that only a
            simulation has).

    Returns:
        the defense; its score is the position in the order of selection from 0, +inf for who was not selected.

    Raises:
        UserError: f is negative or no number.

    Conventions:
        Krum is run again on those that remain, not once; of two values as far from the median the lower is taken.

    Needs:
        The Gram matrix, then the selected updates coordinate by coordinate; n >= 4 f + 3.

    Fails:
        Beyond a quarter of malicious clients, where its own condition ends; it throws away many honest updates.

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
        return decide_for(updates, update_D, selected_N.to(torch.float64), turn_N, stage_N=stage_N)

    least = 4 * f + 3 if isinstance(f, int) else 1
    return Defense("bulyan", ("kept", "nonfinite", "bulyan"), apply, min_clients=least, weighs=False)
