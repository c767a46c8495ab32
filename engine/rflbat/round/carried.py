"""Carried columns in a round: which columns a defense sees, and the carried columns of the new global model.

Axes: N clients of the round, D columns of the model, C carried columns.
"""

import torch
from torch import Tensor

from rflbat.defenses.base import Decision
from rflbat.round.state import Federation
from rflbat_kernels import weighted_sum


def split_columns(federation: Federation, updates_NQ: Tensor) -> tuple[Tensor, Tensor | None]:
    """Split the updates into the columns that attack and defense see and the carried ones.

    Args:
        federation: what no round changes.
        updates_NQ: the updates as they were trained.

    Returns:
        the columns of ``defense_vector``, a view; the carried columns, a view, or None if they are among the former or
        the model carries nothing.
    """
    layout = federation.model.layout
    if not layout.carried or federation.experiment.defense_vector == "all":
        return updates_NQ, None
    return updates_NQ[:, : layout.trained], updates_NQ[:, layout.trained :]


def mean_carried(before_C: Tensor, updates_NC: Tensor, decision: Decision) -> Tensor:
    """Average the carried columns of the kept clients by the decision's weights.

    ``c = c_0 + sum_i w_i d_i / sum_i w_i`` over the kept clients, whatever the defense does with the trained columns;
    ``c_0`` if the weights are all 0. The server's learning rate does not enter.

    Args:
        before_C: carried columns of the global model before the round.
        updates_NC: carried columns of the updates.
        decision: the defense's decision.

    Returns:
        carried columns of the new global model.
    """
    share_N = torch.where(decision.kept, decision.weights, 0)
    total = share_N.sum()
    share_N = torch.where(total > 0, share_N / torch.where(total > 0, total, 1), 0)
    return before_C + weighted_sum(share_N, updates_NC)


def next_columns(
    federation: Federation, params_D: Tensor, update_D: Tensor, decision: Decision, carried_NC: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return the update of the server's step and the carried columns of the new global model.

    Args:
        federation: what no round changes.
        params_D: the global model before the round.
        update_D: the decision's update, of the columns that the defense saw.
        decision: the decision.
        carried_NC: the carried columns of the updates, from ``split_columns``.

    Returns:
        the update of the trained columns and the new carried columns; the update of all columns and None if the model
        carries nothing, or if the defense saw all columns and they are averaged.
    """
    layout, average = federation.model.layout, federation.experiment.batch_norm == "average"
    if not layout.carried or (carried_NC is None and average):
        return update_D, None
    before_C = params_D[layout.trained :]
    after_C = before_C if carried_NC is None or not average else mean_carried(before_C, carried_NC, decision)
    return update_D[: layout.trained], after_C
