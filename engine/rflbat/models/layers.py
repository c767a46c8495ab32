"""Layers of torch modules whose training depends on the batch or on chance, as pure functions of a client's batch.

Batch normalisation counts real samples only and returns its running statistics; dropout draws from the client's key.
Axes: B batch, C channels.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rflbat.errors import UserError
from rflbat.randomness import hashed, hashed_uniforms


@dataclass
class TrainingPass:
    """One client's forward pass in training.

    Args:
        weight_B: weight of each sample; 0 for padding.
        key: int64 scalar from which dropout draws; None for a model without dropout.
        carried: name -> new value of the carried tensors, written by the layers.
        draws: number of dropout layers that the pass has come through.
    """

    weight_B: Tensor
    key: Tensor | None
    carried: dict[str, Tensor] = field(default_factory=dict)
    draws: int = 0

    def next_key(self) -> Tensor:
        """Return the key of the next dropout layer."""
        if self.key is None:
            raise ValueError("a model with dropout needs a key")
        self.draws += 1
        return hashed(self.key, self.draws)


PASS: ContextVar[TrainingPass] = ContextVar("PASS")
"""The training pass that runs in this thread."""


class WeightedBatchNorm(nn.Module):
    """Batch normalisation over the real samples of a batch, as torch.nn.BatchNorm1d, 2d and 3d on unpadded batches.

    In training, mean and variance are over the samples of weight 1 and all positions: ``m = sum w x / n``, ``v = sum w
    (x - m)^2 / n``, ``y = (x - m) / sqrt(v + eps) * weight + bias``. The running mean and the running variance, which
    takes ``v n / (n - 1)``, move by ``momentum``, or by ``1 / (batches so far)`` if it is None. In evaluation they
    replace m and v. A single value per channel (n = 1), which torch refuses, moves the running mean only.

    Args:
        norm: torch's module; its parameters and buffers are taken over.
        path: its name in the whole module.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: _BatchNorm, path: str) -> None:
        super().__init__()
        if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
            needed = "then the prediction for a test sample depends on its batch"
            raise UserError(f"batch normalisation {path!r} keeps no running statistics; {needed}")
        self.path, self.eps, self.momentum = path, norm.eps, norm.momentum
        self.weight, self.bias = cast("nn.Parameter | None", norm.weight), cast("nn.Parameter | None", norm.bias)
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)
        self.register_buffer("num_batches_tracked", norm.num_batches_tracked.to(norm.running_mean.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a batch ``(B, C, ...)``."""
        if not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        current = PASS.get()
        weight_B = current.weight_B
        if len(x) != len(weight_B):
            raise UserError(
                f"batch normalisation {self.path!r} gets {len(x)} rows for a batch of {len(weight_B)} samples; "
                "allowed: one row for each sample, since padding must not count"
            )
        axes, wide = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        share = weight_B.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        count = share.sum() * (x[0, 0].numel())
        mean_C = (x * share).sum(axes) / count
        centred = x - mean_C.view(wide)
        variance_C = (centred.square() * share).sum(axes) / count
        self._carry(current, mean_C.detach(), variance_C.detach(), count)
        factor_C = (variance_C + self.eps).rsqrt()
        factor_C = factor_C if self.weight is None else factor_C * self.weight
        normal = centred * factor_C.view(wide)
        return normal if self.bias is None else normal + self.bias.view(wide)

    def _carry(self, current: TrainingPass, mean_C: Tensor, variance_C: Tensor, count: Tensor) -> None:
        """Move the running statistics."""
        names = {name: f"{self.path}.{name}".lstrip(".") for name, _ in self.named_buffers()}
        before = {name: current.carried.get(names[name], value) for name, value in self.named_buffers()}
        tracked = before["num_batches_tracked"] + 1
        moved = 1 / tracked if self.momentum is None else self.momentum
        unbiased_C = variance_C * (count / (count - 1).clamp_min(1))
        unbiased_C = torch.where(count > 1, unbiased_C, before["running_var"])
        current.carried[names["num_batches_tracked"]] = tracked
        current.carried[names["running_mean"]] = (1 - moved) * before["running_mean"] + moved * mean_C
        current.carried[names["running_var"]] = (1 - moved) * before["running_var"] + moved * unbiased_C


class KeyedDropout(nn.Module):
    """Dropout whose mask is a hash of the client's key, the layer's place in the pass and the position.

    ``y = x / (1 - p)`` where ``u >= p``, else 0, with u uniform in [0, 1). A position does not depend on the size of
    the batch, so padding changes no mask.

    Args:
        p: probability of zero, 0 to 1.
        spatial: axes at the end of ``x`` that are dropped together, as torch.nn.Dropout1d, 2d and 3d do.
    """

    def __init__(self, p: float, spatial: int = 0) -> None:
        super().__init__()
        self.p, self.spatial = p, spatial

    def forward(self, x: Tensor) -> Tensor:
        """Drop in training; the identity in evaluation."""
        if not self.training or self.p == 0:
            return x
        kept = x.ndim - self.spatial
        shape = (*x.shape[:kept], *[1] * self.spatial)
        uniform = hashed_uniforms(PASS.get().next_key(), *shape)
        return torch.where(uniform >= self.p, x / max(1 - self.p, 2.0**-24), 0)


DROPOUTS: dict[type[nn.Module], int] = {nn.Dropout: 0, nn.Dropout1d: 1, nn.Dropout2d: 2, nn.Dropout3d: 3}
"""torch's dropout modules, and how many axes each drops together."""


def with_pure_layers(module: nn.Module) -> nn.Module:
    """Replace batch normalisation and dropout in a module, in place.

    Args:
        module: any module; it is changed.

    Returns:
        the module; its replacement if it is such a layer itself.

    Raises:
        UserError: batch normalisation without running statistics.
    """
    replaced = {each: _pure(each, path) for path, each in module.named_modules()}
    for each in list(module.modules()):
        for name, child in each._modules.items():
            if child is not None:
                each._modules[name] = replaced[child]
    return replaced[module]


def _pure(module: nn.Module, path: str) -> nn.Module:
    """Return the replacement of a layer, or the layer."""
    if isinstance(module, _BatchNorm):
        return WeightedBatchNorm(module, path)
    if type(module) in DROPOUTS:
        return KeyedDropout(cast("nn.Dropout", module).p, DROPOUTS[type(module)])
    return module
