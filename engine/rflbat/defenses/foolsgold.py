"""FoolsGold: clients whose updates point in the same direction lose weight.

Axes: N clients of the round, C clients of the federation, D parameters.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rflbat.defenses.base import BY_COLUMN, Decision, Defense, NoState, Updates, decide
from rflbat.errors import UserError
from rflbat.randomness import Draw
from rflbat_kernels import cosines
from rflbat_kernels.operations import partial_gram
from rflbat_kernels.sharding import all_reduce

ROUNDING = 1e-12


@dataclass(frozen=True)
class History:
    """Sum of all past updates of each client.

    Args:
        history_CD: float32.
    """

    history_CD: Tensor = field(metadata=BY_COLUMN)


PIECES, NARROWEST = 128, 2048
"""Number of pieces into which the columns of the history are split, and the smallest width of a piece."""


def _remember(history: History, updates: Updates) -> tuple[History, Tensor]:
    """Add the round's valid updates to the history and compute the cosines of the clients' rows in the same pass.

    The pass goes over pieces of the columns. Rows stay finite whatever the updates. Besides the new history, which is
    the next state, only one piece is held in memory.

    Args:
        history: before the round.
        updates: the round's updates.

    Returns:
        the history after the round, and the cosines ``(N, N)`` of its rows of this round's clients.
    """
    before_CD, ids_N, valid_N = history.history_CD, updates.client_ids_N, updates.valid_N
    most = torch.finfo(before_CD.dtype).max
    after_CD = torch.empty_like(before_CD)
    inner_NN = torch.zeros(len(ids_N), len(ids_N), dtype=torch.float64, device=before_CD.device)
    parameters = before_CD.shape[1]
    width = max(NARROWEST, parameters // PIECES)
    for start in range(0, parameters, width):
        piece = slice(start, start + width)
        sent_NB = torch.where(valid_N[:, None], updates.matrix_ND[:, piece], 0).to(before_CD.dtype).clamp_(-most, most)
        after_CD[:, piece] = before_CD[:, piece].index_add(0, ids_N, sent_NB).clamp_(-most, most)
        inner_NN += partial_gram(after_CD[:, piece].index_select(0, ids_N), valid_N).raw_NN
    return History(after_CD), cosines(all_reduce(inner_NN))


def learning_rates(cosines_NN: Tensor, valid_N: Tensor, kappa: float) -> Tensor:
    """Compute FoolsGold's weight of each client from pairwise cosines.

    Let cs be the cosines with 0 on the diagonal. ``m_i = max_j cs_ij`` (so at least 0). Pardoning: if ``m_i < m_j``,
    ``cs_ij <- cs_ij m_i / m_j``. ``w_i = clip(1 - max_j cs_ij, 0, 1)``; ``w <- w / max w``; a weight of 1 becomes 0.99;
    ``w <- clip(kappa (ln(w / (1 - w)) + 1/2), 0, 1)``. Every 0/0 gives 0. So does a w of at most 1e-12, the rounding
    error of parallel updates.

    Args:
        cosines_NN: cosines of the histories.
        valid_N: bool, clients to weigh.
        kappa: confidence, above 0.

    Returns:
        weights ``(N,)`` in [0, 1].
    """
    both_NN = valid_N[:, None] & valid_N[None, :]
    alike_NN = torch.where(both_NN, cosines_NN, 0)
    alike_NN = alike_NN - torch.diag(alike_NN.diagonal())
    closest_N = alike_NN.amax(1)
    pardoned_NN = closest_N[:, None] < closest_N[None, :]
    ratio_NN = closest_N[:, None] / torch.where(pardoned_NN, closest_N[None, :], 1)
    alike_NN = torch.where(pardoned_NN, alike_NN * ratio_NN, alike_NN)
    weight_N = torch.where(valid_N, (1 - alike_NN.amax(1)).clamp(0, 1), 0)
    weight_N = torch.where(weight_N > ROUNDING, weight_N, 0)
    largest = weight_N.amax()
    weight_N = weight_N / torch.where(largest > 0, largest, 1)
    weight_N = torch.where(weight_N >= 1, 0.99, weight_N)
    logit_N = kappa * (torch.log(weight_N / (1 - weight_N)) + 0.5)
    return logit_N.clamp(0, 1)


def foolsgold(*, memory: bool = True, kappa: float = 1.0, normalise: bool = True) -> Defense:
    """Weight clients by the diversity of their updates, so that sybils that pull in one direction get weight 0.

    ``history_i += d_i`` by client id. The cosines of the histories give the weights ``w_i`` of ``learning_rates``. The
    update is ``sum w_i d_i / sum w_i``.

    Args:
        memory: judge by the sum of all of a client's updates (True, the original) or by this round's update alone
            (False). If roles are redrawn every round, a history mixes honest and malicious turns, and only False
            reproduces the paper's figures.
        kappa: confidence of the logit, above 0 (1).
        normalise: divide by the sum of the weights (True). The original does not, so its step grows with the number of
            clients.

    Returns:
        the defense. Its score is the weight before normalisation.

    Raises:
        UserError: kappa is not above 0.

    Conventions:
        Cosines of whole histories, without a client's cosine to itself; every 0/0 counts as 0; a weight of 1 becomes
        0.99 before the logit; weights are clipped to [0, 1].

    Needs:
        With ``memory``, the history of every client (clients x D numbers); otherwise only the Gram matrix.

    Fails:
        If roles are redrawn, since histories then mix honest and malicious turns. If honest clients agree, as at the
        start of training and with IID data, it silences them. A single attacker does not look like a sybil.

    Example:
        >>> import rflbat, numpy
        >>> sybils = numpy.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> rflbat.aggregate(sybils, "foolsgold").kept.tolist()
        [False, False, True]

    Source: Fung, Yoon and Beschastnikh 2018, algorithm 1.
    """
    if not 0 < kappa < math.inf:
        raise UserError(f"foolsgold: kappa={kappa} is out of range; allowed: finite numbers above 0")

    def init(clients: int, parameters: int, device: torch.device) -> History | NoState:
        return History(torch.zeros(clients, parameters, device=device)) if memory else NoState()

    def apply(updates: Updates, state: History | NoState, draw: Draw) -> Decision:
        if isinstance(state, History):
            state, alike_NN = _remember(state, updates)
        else:
            alike_NN = updates.cosines_NN
        weight_N = learning_rates(alike_NN, updates.valid_N, kappa)
        decision = decide(updates, weight_N, weight_N, stage_N=torch.where(weight_N > 0, 0, 2), state=state)
        if normalise:
            return decision
        most = torch.finfo(updates.dtype).max
        return replace(decision, update=updates.weighted_sum(weight_N).clamp(-most, most))

    return Defense("foolsgold", ("kept", "nonfinite", "alike"), apply, init)
