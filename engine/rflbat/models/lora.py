"""Low-rank adapters on a frozen network.

Axes: B batch, R rank.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from rflbat.errors import UserError
from rflbat.models.base import Model
from rflbat.models.modules import from_module
from rflbat.models.transformer import TextEncoder, check_sizes


class Adapted(nn.Module):
    """A frozen linear layer with a trained low-rank correction: ``y = W x + b + (alpha / R) B A x``.

    A starts as in torch.nn.Linear and B at zero, so that the layer starts as the frozen one.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.factor = base.requires_grad_(False), alpha / rank
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        return cast("Tensor", self.base(x)) + self.factor * (x @ self.lora_a.mT @ self.lora_b.mT)


def adapt(module: nn.Module, rank: int, alpha: float) -> nn.Module:
    """Freeze a module and put adapters on its linear layers; a layer called ``head`` stays as it is and is trained.

    Args:
        module: the module; it is changed.
        rank: R.
        alpha: factor of the correction, times R.

    Returns:
        the module.
    """
    for name, value in module.named_parameters():
        value.requires_grad_(name.startswith("head."))
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, nn.Linear) and not (parent is module and name == "head"):
                parent._modules[name] = Adapted(child, rank, alpha)
    return module


class FeedForward(nn.Module):
    """The layers of model ``mlp``."""

    def __init__(self, features: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.hidden1, self.hidden2 = nn.Linear(features, hidden), nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify samples."""
        logits: Tensor = self.head(torch.relu(self.hidden2(torch.relu(self.hidden1(x.flatten(1))))))
        return logits


def lora(
    shape: tuple[int, ...],
    classes: int,
    words: int = 0,
    *,
    rank: int = 4,
    alpha: float = 8.0,
    width: int = 0,
    trunk_seed: int = 0,
) -> Model:
    """Low-rank adapters and a linear head on a frozen trunk: model ``mlp``, or model ``transformer`` for texts.

    Clients train and send the adapters and the head alone. The trunk is drawn under ``trunk_seed``, the same in every
    run, as a stand-in for a pretrained one; it is on the device once for all clients. Adapters are on each linear layer
    of the trunk.

    Args:
        shape: shape of one sample.
        classes: number of classes, at least 2.
        words: size of the vocabulary of texts; 0 for other samples.
        rank: rank R of the adapters, at least 1.
        alpha: the correction counts ``alpha / rank`` times.
        width: units of the layers of the mlp (default 200), or numbers per token of the transformer (default 64, a
            multiple of 4); 0 takes the default.
        trunk_seed: seed of the trunk.

    Returns:
        the functional model.

    Raises:
        UserError: a parameter is out of range.

    Example:
        >>> model = lora((1, 28, 28), 10)
        >>> model.layout.size, sum(each.numel() for each in model.constants.values())
        (7546, 197200)

    Source: Hu et al. 2022, "LoRA: low-rank adaptation of large language models".
    """
    width = width or (64 if words else 200)
    for key, value in (("rank", rank), ("width", width)):
        if value < 1:
            raise UserError(f"model 'lora': {key}={value} is out of range; allowed: at least 1")
    if not math.isfinite(alpha):
        raise UserError(f"model 'lora': alpha={alpha} is not finite")
    if words:
        check_sizes("lora", width, 4, 2)

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(trunk_seed % 2**63)
            if words:
                trunk: nn.Module = TextEncoder(shape[0], words, classes, width, 4, 2, 0.0)
            else:
                trunk = FeedForward(math.prod(shape), classes, width)
        cast("nn.Linear", trunk.head).reset_parameters()
        return adapt(trunk, rank, alpha)

    return from_module(build, name="lora", untried=False)
