"""Any defense as one function of a matrix of updates; it needs no engine.

Axes: N clients, D parameters.
"""

from typing import Any

import torch
from torch import Tensor

from rflbat.defenses.base import Decision, Updates
from rflbat.defenses.registry import make_defense
from rflbat.errors import UserError
from rflbat.randomness import uniforms
from rflbat_kernels import finite_rows


def _matrix(updates: Any) -> Tensor:
    """Take torch, numpy or DLPack without a copy where the library allows it."""
    matrix_ND = updates.detach() if isinstance(updates, Tensor) else torch.utils.dlpack.from_dlpack(updates)
    if matrix_ND.ndim != 2 or 0 in matrix_ND.shape:
        raise UserError(f"updates have the shape {tuple(matrix_ND.shape)}; wanted is (clients, parameters)")
    if not matrix_ND.is_floating_point():
        raise UserError(f"updates are of type {matrix_ND.dtype}; wanted is a floating-point type")
    return matrix_ND


@torch.no_grad()
def aggregate(
    updates: Any, defense: str = "rflbat", *, sizes: Any = None, state: Any = None, seed: int = 0, **params: object
) -> Decision:
    """Aggregate client updates under a defense.

    Rows with NaN or Inf are dropped before anything else (stage "nonfinite"); if nobody is kept the update is 0.
    Everything runs where the updates lie and waits for nothing.

    Args:
        updates: ``(N, D)`` updates, local minus global: a torch tensor, a numpy array or anything with DLPack.
        defense: a name of ``rflbat list defenses``.
        sizes: ``(N,)`` number of samples of each client, above 0; equal by default.
        state: ``.state`` of the decision of the previous round, for a defense with memory; row i is client i.
        seed: key of the draws (k-means starts); another one for each round, if rounds shall differ.
        params: parameters of the defense, as in ``rflbat show NAME``.

    Returns:
        the decision: ``.update`` (D,), ``.kept`` (N,), ``.weights`` (N,), ``.scores`` (N,), ``.state``, ``.trace``.

    Raises:
        UserError: an unknown defense or parameter, or input of the wrong shape or type.

    Example:
        >>> import numpy
        >>> aggregate(numpy.array([[1.0, 2.0], [3.0, 4.0]]), "fedavg").update.tolist()
        [2.0, 3.0]
    """
    matrix_ND = _matrix(updates)
    clients, parameters = matrix_ND.shape
    device = matrix_ND.device
    sizes_N = torch.ones(clients) if sizes is None else torch.as_tensor(sizes)
    if sizes_N.shape != (clients,):
        raise UserError(f"sizes have the shape {tuple(sizes_N.shape)}; wanted is ({clients},), one per client")
    chosen = make_defense(defense, params)
    seen = Updates(
        matrix_ND=matrix_ND,
        sizes_N=sizes_N.to(device, torch.float64),
        client_ids_N=torch.arange(clients, device=device),
        valid_N=finite_rows(matrix_ND),
    )
    before = chosen.init(clients, parameters, device) if state is None else state
    return chosen.apply(seen, before, uniforms(seed, "defense", 0, device))
