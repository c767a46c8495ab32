"""Any ``torch.nn.Module`` as a functional model.

Axes: B batch, D columns of the flat parameters.
"""

import copy
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rflbat.errors import UserError
from rflbat.models.base import Loss, Model, cross_entropy
from rflbat.models.layers import PASS, KeyedDropout, TrainingPass, WeightedBatchNorm, with_pure_layers
from rflbat.parameters import Layout

SLOW_UNDER_VMAP = (nn.modules.conv._ConvNd, nn.RNNBase)
"""Layers that are faster one client at a time on a CPU."""


def from_module(
    build: Callable[[], nn.Module],
    *,
    name: str = "",
    loss: Loss = cross_entropy,
    label_shape: tuple[int, ...] = (),
    cpu_backend: str = "",
    untried: bool = True,
) -> Model:
    """Make a model of any module.

    Parameters are trained; those with ``requires_grad=False`` and buffers are constants, one copy for all clients.
    Batch normalisation is replaced by a version that does not count padding, and its running statistics are carried:
    part of a client's update, not moved by its optimizer. ``torch.nn.Dropout`` is replaced by a version that draws from
    the client's key. Training runs the module in training mode, evaluation in evaluation mode. Other modules with a
    state, such as a spectral norm, and functions that draw, such as ``torch.nn.functional.dropout``, are refused.

    Args:
        build: function without arguments that returns the module; a class too. Its initialisation runs with torch's
            generator seeded by the run's key, and the generator's state is restored. Constants are those of one call
            under a fixed seed, the same in every run.
        name: name of the model; default the module's class.
        loss: loss of a client's batch.
        label_shape: shape of the label of one sample, ``(T,)`` for a language model.
        cpu_backend: back end on a CPU; default "loop" if the module has convolutions or recurrent layers, else "vmap".
            If ``vmap`` cannot transform the module, ``auto`` falls back to the loop.
        untried: whether the engine tries the module before a run, on two clients with parameters of zeros.

    Returns:
        the model. Its module gets one argument, the samples ``(B, *sample)``, and returns logits, or an object with
        the attribute ``logits``.

    Raises:
        UserError: ``build`` is a module, or it does not return one; a parameter is not float32 or has no shape yet;
            nothing is trained; batch normalisation without running statistics.

    Example:
        >>> model = from_module(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8)), name="small")
        >>> model.layout.trained, model.layout.size
        (536, 553)
    """
    if isinstance(build, nn.Module):
        raise UserError("from_module takes a function that returns the module; got a module; allowed: `lambda: module`")
    original = _built(build, 0)
    module = with_pure_layers(copy.deepcopy(original))
    trained, carried, constants = _tensors(module)
    if not trained:
        raise UserError(f"module {type(original).__name__}: no parameter requires a gradient, so nothing is trained")
    layout = Layout(*({each: tuple(value.shape) for each, value in part.items()} for part in (trained, carried)))

    def init(stream: np.random.Generator) -> Tensor:
        drawn = _built(build, int(stream.integers(2**63)))
        named = dict([*drawn.named_parameters(), *drawn.named_buffers()])
        return layout.flatten({key: value.detach().to("cpu", torch.float32) for key, value in named.items()})

    evaluated, training = _PureModule(module, False), _PureModule(module, True)

    def apply(named: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return evaluated(named, x)

    def train_apply(
        named: Mapping[str, Tensor], x: Tensor, weight_B: Tensor, draw_key: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        current = TrainingPass(weight_B, draw_key)
        token = PASS.set(current)
        try:
            logits = training(named, x)
        finally:
            PASS.reset(token)
        return logits, {each: current.carried.get(each, named[each]) for each in carried}

    layers = list(module.modules())
    slow = any(isinstance(layer, SLOW_UNDER_VMAP) for layer in layers)
    return Model(
        name or type(original).__name__,
        layout,
        init,
        apply,
        cpu_backend=cpu_backend or ("loop" if slow else "vmap"),
        train_apply=train_apply,
        loss=loss,
        label_shape=label_shape,
        constants=constants,
        draws=any(isinstance(layer, KeyedDropout) and layer.p > 0 for layer in layers),
        untried=untried,
    )


def _built(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Call the factory with torch's CPU generator seeded, and restore its state."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = build()
    if not isinstance(module, nn.Module):
        raise UserError(f"the function of from_module must return a torch.nn.Module; got {type(module).__name__}")
    return module


def _tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Divide the tensors of a module into trained, carried and constant ones."""
    trained: dict[str, Tensor] = {}
    carried: dict[str, Tensor] = {}
    constants: dict[str, Tensor] = {}
    for name, value in module.named_parameters():
        if is_lazy(value):
            raise UserError(f"parameter {name!r} is lazy and has no shape; allowed: modules with all sizes stated")
        if not value.requires_grad:
            constants[name] = value.detach().clone()
        elif value.dtype == torch.float32:
            trained[name] = value.detach()
        else:
            raise UserError(f"parameter {name!r} is of type {value.dtype}; allowed: torch.float32")
    states = {id(value) for each in module.modules() if isinstance(each, WeightedBatchNorm) for value in each.buffers()}
    for name, buffer in module.named_buffers():
        (carried if id(buffer) in states else constants)[name] = buffer.detach().clone()
    return trained, carried, constants


class _PureModule:
    """A module as a pure function of its tensors, from any number of threads.

    ``functional_call`` swaps tensors in the module, so each call in progress needs a copy of its own. The copies hold
    no numbers.

    Args:
        module: the module.
        training: whether it runs in training mode.
    """

    def __init__(self, module: nn.Module, training: bool) -> None:
        self._module, self._training = module, training
        self._free: deque[nn.Module] = deque()
        first: dict[int, str] = {}
        self._source: dict[str, str] = {}
        for name, value in [
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        ]:
            self._source[name] = first.setdefault(id(value), name)

    def __call__(self, named: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Run the module on a batch."""
        given = {name: named[source] for name, source in self._source.items()}
        versions = {name: value._version for name, value in given.items()}
        values = dict(given)
        try:
            module = self._free.pop()
        except IndexError:
            module = self._copy()
        try:
            found: Any = torch.func.functional_call(module, values, (x,), tie_weights=False)
        finally:
            self._free.append(module)
        for name, value in given.items():
            if values[name] is not value or value._version != versions[name]:
                raise UserError(
                    f"the module changes its tensor {name!r} in a forward pass; allowed: the running statistics of "
                    "torch.nn.BatchNorm1d, 2d and 3d"
                )
        logits = getattr(found, "logits", found)
        if not isinstance(logits, Tensor):
            raise UserError(f"the module must return the logits, a tensor; got {type(found).__name__}")
        return logits

    def _copy(self) -> nn.Module:
        """Copy the module without its numbers."""
        memo: dict[int, Any] = {
            id(value): nn.Parameter(torch.empty_like(value, device="meta"), requires_grad=False)
            for value in self._module.parameters()
        }
        memo |= {id(value): torch.empty_like(value, device="meta") for value in self._module.buffers()}
        module = copy.deepcopy(self._module, memo)
        return module.train(self._training)
