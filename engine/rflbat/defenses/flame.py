"""FLAME: majority cluster of the local models by cosine, clipping to the median norm, noise.

Axes: N clients of the round, D parameters.
"""

import math

import torch
from torch import Tensor

from rflbat.defenses.angles import BOUNDS, clipped_mean, cosine_distances
from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.defenses.norm_clipping import normals
from rflbat.errors import UserError, nearest
from rflbat.randomness import Draw
from rflbat_kernels import hdbscan, inner_products
from rflbat_kernels.sharding import all_columns, own_columns

VECTORS = ("model", "update")


def model_distances(updates: Updates) -> Tensor:
    """Compute the cosine distances of the local models ``w + d_i``.

    Args:
        updates: the round's updates; needs "params".

    Returns:
        ``(N, N)`` float64.
    """
    params_D = updates.params_D
    square = inner_products(params_D[None], params_D)[0]
    excess_N = updates.gram.raw_NN.diagonal() + 2 * updates.inner_products(params_D)
    return cosine_distances(updates.squared_distances_NN, excess_N, square)


def update_distances(updates: Updates) -> Tensor:
    """Compute the cosine distances of the updates.

    Args:
        updates: the round's updates.

    Returns:
        ``(N, N)`` float64; a zero update is at distance 1 from all others.
    """
    excess_N = updates.gram.raw_NN.diagonal()
    return cosine_distances(updates.squared_distances_NN, excess_N, torch.zeros_like(excess_N[0]))


def flame(*, noise: float = 0.001, vector: str = "model", bound: str = "all", min_samples: int = 1) -> Defense:
    """Keep the majority cluster of the local models, clip to the median norm, and add noise.

    1. HDBSCAN on the cosine distances of the local models ``w + d_i``, with clusters of at least ``n // 2 + 1``
       clients; a single cluster is allowed. Only its members are kept.
    2. ``S`` is the median norm of all updates. The kept updates are averaged as ``min(1, S / ||d_i||) d_i``.
    3. Normal noise of standard deviation ``noise * S`` is added to each coordinate.

    Args:
        noise: the paper's lambda, at least 0 (0: no noise is drawn). The paper uses 0.001 for images and texts and 0.01
            for intrusion detection; it is ``sqrt(2 ln(1.25 / delta)) / epsilon``.
        vector: what is clustered: ``model`` (the paper: local models, whose cosines are all near 1) or ``update``
            (SAFEFL).
        bound: norms whose median is S: those of ``all`` clients (the paper) or of the ``kept`` (BackdoorIndicator).
        min_samples: rank of the neighbour that sets the density of a point in HDBSCAN, at least 1; the point itself
            counts as the first. The paper's 1 means 2 here, which gives the same clusters as 1.

    Returns:
        the defense. Its score is the mean cosine distance to the other clients. The trace holds ``cluster``, 0 for the
        majority and -1 for the others.

    Raises:
        UserError: a value is out of range.

    Conventions:
        Distances ``1 - cos``, handed to HDBSCAN as distances, not as points. Plain mean; numbers of samples do not
        count. The noise is added once, to the mean, so its deviation does not depend on the number of clients. It is
        ``noise * S`` for every coordinate, not scaled by the deviation of a layer as in BackFed and FLPoison.

    Needs:
        The Gram matrix and, for ``vector=model``, the inner products with the global model. HDBSCAN runs on the host,
        so the round waits for the device once. With noise, D uniforms are drawn on the host in each round and copied: 8
        D bytes.

    Fails:
        If the attackers are the majority. If the honest clients have several kinds of data, the smaller kinds are
        dropped. With few attackers it still drops honest clients: those that leave the cluster before the end.

    Example:
        >>> import rflbat, numpy
        >>> updates = numpy.array([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [-1.0, 0.0]])
        >>> rflbat.aggregate(updates, "flame", vector="update", noise=0.0).kept.tolist()
        [True, True, True, False]

    Source: Nguyen et al. 2022, "FLAME: Taming backdoors in federated learning", USENIX Security, algorithm 1.
    """
    if not 0 <= noise < math.inf:
        raise UserError(f"flame: noise={noise} is out of range; allowed: finite numbers of at least 0")
    if min_samples < 1:
        raise UserError(f"flame: min_samples={min_samples} is out of range; allowed: at least 1")
    for key, value, allowed in (("vector", vector, VECTORS), ("bound", bound, BOUNDS)):
        if value not in allowed:
            raise UserError(f"flame: {key}={value!r}{nearest(value, allowed)}; allowed: {', '.join(allowed)}")

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        valid_N = updates.valid_N
        distances_NN = model_distances(updates) if vector == "model" else update_distances(updates)
        label_N = hdbscan(distances_NN[None], valid_N, min_samples=min_samples, allow_single_cluster=True)[0]
        kept_N = label_N == 0
        update_D, median = clipped_mean(updates, kept_N, bound)
        if noise > 0:
            largest = torch.finfo(updates.dtype).max
            noisy_D = update_D + noise * median * own_columns(normals(draw, all_columns(len(update_D))))
            update_D = torch.where(kept_N.any(), noisy_D.clamp(-largest, largest), 0.0).to(updates.dtype)
        others = (valid_N.sum() - 1).clamp_min(1)
        apart_N = torch.where(valid_N[:, None] & valid_N[None, :], distances_NN, 0.0).sum(1) / others
        return decide(
            updates,
            kept_N.to(torch.float64),
            torch.where(valid_N, apart_N, torch.inf),
            update_D=update_D,
            stage_N=torch.where(kept_N, 0, 2),
            cluster=label_N,
        )

    def num_uniforms(clients: int, parameters: int) -> int:
        return 2 * ((parameters + 1) // 2) if noise > 0 else 0

    return Defense(
        "flame",
        ("kept", "nonfinite", "minority"),
        apply,
        num_uniforms=num_uniforms,
        needs=frozenset({"params"} if vector == "model" else ()),
        needs_all_columns=False,
        waits=1,
    )
