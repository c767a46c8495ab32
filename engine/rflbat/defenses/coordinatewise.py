"""Shared code of defenses whose update is not a weighted mean of the clients' updates."""

from dataclasses import replace

from torch import Tensor

from rflbat.defenses.base import Decision, Updates, decide


def decide_for(
    updates: Updates, update_D: Tensor, share_N: Tensor, scores_N: Tensor, *, stage_N: Tensor | None = None
) -> Decision:
    """Build a decision from non-negative shares and a given update.

    Args:
        updates: the round's updates; the matrix is not read again.
        update_D: the server update; 0 if no client is kept.
        share_N: at least 0, any scale; 0 drops a client.
        scores_N: the defense's score of each client.
        stage_N: int64, stage that rejected each client (0: kept). Default: only non-finite updates are rejected.

    Returns:
        the decision; its weights are the shares, normalised over the kept clients.
    """
    without_columns = replace(updates, values=update_D.new_empty(len(share_N), 0))
    return replace(decide(without_columns, share_N, scores_N, stage_N=stage_N), update=update_D)
