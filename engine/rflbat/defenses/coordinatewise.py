"""What the defenses share whose answer is no weighted mean of the rows."""

from dataclasses import replace

from torch import Tensor

from rflbat.defenses.base import Decision, Updates, decide


def decide_for(
    updates: Updates, update_D: Tensor, share_N: Tensor, scores_N: Tensor, *, stage_N: Tensor | None = None
) -> Decision:
    """Turn non-negative shares and an update into a decision.

    Args:
        updates: the round's updates; nothing passes over the matrix again.
        update_D: the answer; 0 if nobody is kept.
        share_N: at least 0, any scale; 0 drops a client.
        scores_N: what the defense judged by.
        stage_N: int64, stage at which each client fell; by default only non-finite clients fall.

    Returns:
        the decision; its weights are the shares, normalised over the kept.
    """
    without_columns = replace(updates, values=update_D.new_empty(len(share_N), 0))
    return replace(decide(without_columns, share_N, scores_N, stage_N=stage_N), update=update_D)
