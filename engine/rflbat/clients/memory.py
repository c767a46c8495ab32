"""The memory model of local training."""

import logging
import math
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from rflbat.clients.step import batch_loss, carrying_loss, split_named
from rflbat.errors import UserError
from rflbat.models.base import Model

CPU, META = torch.device("cpu"), torch.device("meta")
_log = logging.getLogger(__name__)


def activation_bytes(model: Model, sample: torch.Tensor) -> int:
    """Count the bytes that autograd saves per sample between the forward and the backward pass.

    The batch loss is run for one sample and for two on the meta device, which computes nothing. The difference is the
    share of one sample; the rest belongs to the parameters. A module that cannot run on the meta device, because it
    holds tensors of its own or reads values, is run on the CPU.

    Args:
        model: functional model.
        sample: one sample on the meta device, for its shape and dtype.

    Returns:
        bytes, without the sample itself.
    """
    try:
        one, two = (_saved_bytes(model, sample, batch) for batch in (1, 2))
    except (RuntimeError, NotImplementedError):
        if not model.untried:
            raise
        one, two = (_saved_bytes(model, sample, batch, CPU) for batch in (1, 2))
    return two - one


def _saved_bytes(model: Model, sample: torch.Tensor, batch: int, device: torch.device = META) -> int:
    """Sum the distinct tensors that autograd saves for a batch, parameters included."""
    seen: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        seen[id(tensor.untyped_storage())] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        _loss(model, sample, batch, device)
    return sum(math.prod(tensor.shape) * tensor.element_size() for tensor in seen.values())


def _loss(model: Model, sample: torch.Tensor, batch: int, device: torch.device = META) -> None:
    """Run the batch loss, with all parameters and samples zero on the CPU, and nothing computed on the meta device."""
    model = model.to(device)
    flat = torch.zeros(model.layout.size, device=device, requires_grad=True)
    labels_B = torch.zeros(batch, *model.label_shape, dtype=torch.int64, device=device)
    x = torch.zeros(batch, *sample.shape, dtype=sample.dtype, device=device)
    weight_B = torch.ones(batch, device=device)
    # Tensors that a module makes without a device belong beside its samples.
    with torch.enable_grad(), device:
        if model.train_apply is None:
            batch_loss(model)(model.layout.views(flat), x, labels_B, weight_B)
        else:
            key = torch.zeros((), dtype=torch.int64, device=device) if model.draws else None
            trained, carried = split_named(model, model.layout.views(flat))
            held = {name: value.detach() for name, value in carried.items()}
            carrying_loss(model)(trained, held, x, labels_B, weight_B, key)


class _Draws(UserError):
    """An operation draws random numbers."""


class _Drawing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Dispatch mode that raises at the first operation that draws random numbers."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise _Draws(f"it draws random numbers ({func})")
        return func(*args, **(kwargs or {}))


def refuse_random(model: Model, sample: torch.Tensor) -> None:
    """Reject a model that draws from torch's global generator: equal seeds would no longer give equal results.

    Args:
        model: functional model.
        sample: one sample on the meta device, for its shape and dtype.

    Raises:
        UserError: an operation of the model draws from torch's global generator; or a module fails on such samples.
    """
    try:
        with _Drawing():  # type: ignore[no-untyped-call]
            _loss(model, sample, 2, CPU if model.untried else META)
    except RuntimeError as error:  # a constant of the model is stored on a device other than meta
        if model.untried:
            said = str(error).partition("\n")[0]
            raise UserError(
                f"model '{model.name}' cannot be trained on samples of shape {tuple(sample.shape)}: {said}"
            ) from error
        _log.warning("model '%s' could not be examined for random numbers: %s", model.name, error)
    except _Draws as error:
        needed = "the same parameters and samples must give the same loss (torch.nn.Dropout in a module is keyed)"
        raise UserError(f"model '{model.name}' cannot be trained: {error}; {needed}") from None


def bytes_per_client(model: Model, sample: torch.Tensor, batch: int, copies: int = 4) -> int:
    """Count the bytes that one client of a chunk holds while it trains.

    ``4 * copies * D + B * (F + 2 A)`` bytes: the optimizer's copies of D parameters, the batch of F bytes per sample,
    and the activations of A bytes per sample with as much again for their gradients.

    Args:
        model: functional model.
        sample: one sample on the meta device, for its shape and dtype.
        batch: batch size B.
        copies: numbers held per parameter, ``Optimizer.copies``.

    Returns:
        bytes.
    """
    return 4 * copies * model.layout.size + batch * (sample.nbytes + 2 * activation_bytes(model, sample))
