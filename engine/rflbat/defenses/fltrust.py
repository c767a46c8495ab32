"""FLTrust: updates are trusted as far as they point the way of an update that the server trains itself.

Axes: N clients of the round, D parameters.
"""

import torch

from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide, normalised
from rflbat.errors import UserError, nearest
from rflbat.randomness import Draw
from rflbat_kernels import finite_rows, inner_products

FALLBACKS = ("keep", "uniform")


def fltrust(*, fallback: str = "keep") -> Defense:
    """Weight updates by their cosine to the server's own update, and rescale them to its norm.

    Each round the server trains like a client, on a small root set: its update is ``g``. The trust of client i is
    ``t_i = max(0, cos(d_i, g))``, and the update is ``sum t_i (||g|| / ||d_i||) d_i / sum t_i``.

    In a run the root set is ``--root-samples`` training samples (100) that no client has. The server trains on it with
    the local steps, batch size and optimizer of a client, as one more row of the same tensor program.

    Args:
        fallback: the update if no client is trusted: ``keep`` (0, the model stays) or ``uniform`` (the plain mean of
            the rescaled updates).

    Returns:
        the defense. Its score is the trust ``t_i``. The decision's weights are ``t_i / sum t``; a client contributes
        its weight times its RESCALED update.

    Raises:
        UserError: an unknown fallback.

    Conventions:
        A zero update has cosine 0. Numbers of samples do not count. A server update with NaN or Inf trusts no client.
        The published copies draw the root set from the test set or from the training set; here it is drawn from the
        training set, uniformly.

    Needs:
        The server's own update of the round (root data), and the inner products of all updates with it.

    Fails:
        If the root set does not resemble the clients' data. Against attackers that stay within 90 degrees of the
        server's update: they are bounded in norm, not dropped. On a converged model the server's update is small and
        noisy, and so are the trusts.

    Example:
        >>> import rflbat, numpy
        >>> updates = numpy.array([[3.0, 4.0], [0.0, 2.0], [-5.0, 0.0]])
        >>> rflbat.aggregate(updates, "fltrust", root=numpy.array([0.0, 1.0])).weights.round(decimals=3).tolist()
        [0.444, 0.556, 0.0]

    Source: Cao, Fang, Liu and Gong 2021, "FLTrust: Byzantine-robust federated learning via trust bootstrapping",
    algorithm 2.
    """
    if fallback not in FALLBACKS:
        raise UserError(
            f"fltrust: fallback={fallback!r}{nearest(fallback, FALLBACKS)}; allowed: {', '.join(FALLBACKS)}"
        )

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        usable_1 = finite_rows(updates.root_D[None])
        root_D = torch.where(usable_1, updates.root_D, 0)
        length = inner_products(root_D[None], root_D).sqrt()
        norms_N = updates.norms_N
        moved_N = (norms_N > 0) & updates.valid_N
        # Divided one after the other, so that no product of norms can overflow or underflow.
        cosine_N = (
            updates.inner_products(root_D) / torch.where(moved_N, norms_N, 1.0) / torch.where(length > 0, length, 1.0)
        )
        trust_N = torch.where(moved_N, cosine_N.clamp(0.0, 1.0), 0.0)
        share_N = trust_N
        if fallback == "uniform":
            share_N = torch.where(trust_N.sum() > 0, trust_N, updates.valid_N.to(torch.float64))
        factor_N = torch.where(moved_N, length / torch.where(moved_N, norms_N, 1.0), 0.0)
        update_D = updates.weighted_sum(normalised(updates, share_N) * factor_N)
        return decide(updates, share_N, trust_N, update_D=update_D, stage_N=torch.where(share_N > 0, 0, 2))

    return Defense(
        "fltrust",
        ("kept", "nonfinite", "untrusted"),
        apply,
        needs=frozenset({"root_update"}),
        needs_all_columns=False,
    )
