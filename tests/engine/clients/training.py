"""How the tests of local training run a back end: start vectors in, trained vectors out."""

from collections.abc import Callable

import torch

from rflbat.clients.backend import Backend
from rflbat.clients.optimizer import Optimizer
from rflbat.clients.step import BatchSource
from rflbat.models.base import Model


def back_ends(clients: int, analytic: bool) -> dict[str, Backend]:
    """Every back end with chunks of one, of some, and of more than all clients; and several workers."""
    found = {"loop": Backend("loop", 1, 1, ""), "loop, 3 workers": Backend("loop", 1, 3, "")}
    for name in ("vmap", "analytic") if analytic else ("vmap",):
        for chunk in (1, 3, clients + 4):
            found[f"{name}{chunk}"] = Backend(name, chunk, 1, "")
        found[f"{name}3, 2 workers"] = Backend(name, 3, 2, "")
    return found


def train(
    backend: Backend, params_ND: torch.Tensor, model: Model, batch_source: BatchSource, sgd: Optimizer
) -> torch.Tensor:
    """Train from the given rows; the updates' buffer starts as NaN, so that an unwritten element shows."""
    updates_ND = torch.full_like(params_ND, torch.nan)
    assert backend.train(updates_ND, lambda rows: params_ND[rows], model, batch_source, sgd) == backend.chunk
    return params_ND + updates_ND


def optimizers(steps: int, lr: float) -> list[Optimizer]:
    """SGD with and without momentum and weight decay, clipped SGD, and Adam with and without both."""
    plain = [Optimizer(steps, lr, m, w) for m in (0.0, 0.9) for w in (0.0, 0.05)]
    clipped = [Optimizer(steps, lr, m, clip_norm=0.3) for m in (0.0, 0.9)]
    adam = [Optimizer(steps, lr / 10, 0.0, w, "adam", c) for w, c in ((0.0, None), (0.05, None), (0.0, 0.3))]
    return plain + clipped + adam


def told(optimizer: Optimizer) -> str:
    """The settings as the name of a test."""
    of = optimizer
    return f"{of.name},momentum={of.momentum},decay={of.weight_decay},clip={of.clip_norm}"


def torch_steps(module: torch.nn.Module, optimizer: Optimizer) -> Callable[[torch.Tensor], None]:
    """torch's own optimizer and clipping of the same settings: a function that takes one step on a loss."""
    settings = {"lr": optimizer.lr, "weight_decay": optimizer.weight_decay}
    if optimizer.name == "adam":
        theirs = torch.optim.Adam(module.parameters(), **settings)
    else:
        theirs = torch.optim.SGD(module.parameters(), momentum=optimizer.momentum, **settings)

    def step(loss: torch.Tensor) -> None:
        theirs.zero_grad()
        loss.backward()
        if optimizer.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), optimizer.clip_norm)
        theirs.step()

    return step
