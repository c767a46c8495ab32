"""How the tests of local training run a back end: start vectors in, trained vectors out."""

import torch

from rflbat.clients.backend import Backend
from rflbat.clients.step import SGD, Feed
from rflbat.models.base import Model


def back_ends(clients: int, analytic: bool) -> dict[str, Backend]:
    """Every back end with chunks of one, of some, and of more than all clients; and several workers."""
    found = {"loop": Backend("loop", 1, 1, ""), "loop, 3 workers": Backend("loop", 1, 3, "")}
    for name in ("vmap", "analytic") if analytic else ("vmap",):
        for chunk in (1, 3, clients + 4):
            found[f"{name}{chunk}"] = Backend(name, chunk, 1, "")
        found[f"{name}3, 2 workers"] = Backend(name, 3, 2, "")
    return found


def train(backend: Backend, params_ND: torch.Tensor, model: Model, feed: Feed, sgd: SGD) -> torch.Tensor:
    """Train from the given rows; the updates' buffer starts as NaN, so that an unwritten element shows."""
    updates_ND = torch.full_like(params_ND, torch.nan)
    assert backend.train(updates_ND, lambda rows: params_ND[rows], model, feed, sgd) == backend.chunk
    return params_ND + updates_ND
