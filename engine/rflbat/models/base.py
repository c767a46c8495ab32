"""The interface of a model: the shapes of its parameters, its pure functions and its loss.

Axes: B batch, T tokens, C classes, D columns of the flat parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rflbat.errors import UserError
from rflbat.parameters import Layout

Gradients = dict[str, Tensor]
"""Name of a trained parameter -> gradient, with a leading axis n of clients."""

TrainApply = Callable[[Mapping[str, Tensor], Tensor, Tensor, Tensor | None], tuple[Tensor, dict[str, Tensor]]]
"""``train_apply(named, x, weight_B, draw_key)`` returns logits, and name -> new value of every carried tensor.
``weight_B`` is 0 for padding, which must not count in a statistic of the batch. ``draw_key`` is an int64 scalar, one
for each client and step, or None for a model that does not draw."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``loss(logits, labels_B, weight_B)`` returns the loss of a client's batch, a scalar; padding has weight 0."""


def cross_entropy(logits_BC: Tensor, labels_B: Tensor, weight_B: Tensor) -> Tensor:
    """Compute the weighted mean cross-entropy of a batch, ``sum_b w_b CE_b / sum_b w_b``.

    Args:
        logits_BC: logits.
        labels_B: int64 labels, 0 to C - 1.
        weight_B: weight of each sample; 0 for padding.

    Returns:
        the loss, 0-dim.

    Example:
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([1, 3]), torch.tensor([1.0, 0.0]))
        tensor(1.3863)
    """
    each_B = torch.nn.functional.cross_entropy(logits_BC, labels_B, reduction="none")
    return (each_B * weight_B).sum() / weight_B.sum()


def next_token_loss(logits_BTC: Tensor, labels_BT: Tensor, weight_B: Tensor) -> Tensor:
    """Compute the mean cross-entropy over the predicted tokens of a language model.

    ``sum_bt w_b m_bt CE_bt / sum_bt w_b m_bt``, where m is 1 for a label of at least 0. The labels are the tokens that
    follow: position t of ``labels_BT`` is the token that ``logits_BTC`` predicts at position t.

    Args:
        logits_BTC: logits of each position.
        labels_BT: int64, 0 to C - 1; a negative label marks a position without a prediction.
        weight_B: weight of each text; 0 for padding.

    Returns:
        the loss, 0-dim; 0 if no position counts.

    Example:
        >>> next_token_loss(torch.zeros(1, 2, 4), torch.tensor([[2, -1]]), torch.ones(1))
        tensor(1.3863)
    """
    share_BT = (labels_BT >= 0) * weight_B[:, None]
    each_BT = torch.nn.functional.cross_entropy(logits_BTC.mT, labels_BT.clamp_min(0), reduction="none")
    return (each_BT * share_BT).sum() / share_BT.sum().clamp_min(torch.finfo(share_BT.dtype).tiny)


@dataclass(frozen=True)
class Model:
    """A functional model that can be vmapped over clients.

    Args:
        name: registry name.
        layout: names and shapes of the trained parameters and of the carried tensors.
        init: numpy generator -> flat initial parameters ``(D,)`` float32, carried columns included.
        apply: (named tensors, ``x`` of shape ``(B, *sample)``) -> logits ``(B, C)``. The names are those of the layout
            and of the constants, as from ``named``. It must be pure and must not branch on values in Python, so that
            ``torch.func.vmap`` and ``torch.func.grad`` can transform it. It evaluates: running statistics, no dropout.
        cpu_backend: the back end measured fastest on a CPU (``benchmarks/speed``).
        gradient: analytic gradient of the batch loss of ``clients.step.batch_loss`` for a chunk of clients: (named
            parameters ``(n, ...)``, ``x (n, B, *sample)``, labels ``(n, B)``, sample weights ``(n, B)``) -> gradients.
            None: autograd. A model with ``train_apply`` has none.
        embedding: name of the embedding parameter, whose rows the token ids of a sample select; "" if there is none.
            Training changes no row that is not selected.
        with_rows: number of rows -> the same model with an embedding of that many rows.
        train_apply: the function that local training differentiates, for a model with carried tensors or dropout. None:
            it is ``apply``.
        loss: loss of a client's batch.
        label_shape: shape of the label of one sample, ``(T,)`` for a language model.
        constants: frozen tensors that ``apply`` and ``train_apply`` get beside the layout's, by other names. There is
            one copy on the device for all clients.
        draws: whether ``train_apply`` draws, so that the engine must pass it keys.
        untried: whether it is unknown if ``torch.func.vmap`` can transform the model, so that the engine tries it.
    """

    name: str
    layout: Layout
    init: Callable[[np.random.Generator], Tensor]
    apply: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    cpu_backend: str = "vmap"
    gradient: Callable[[Mapping[str, Tensor], Tensor, Tensor, Tensor], Gradients] | None = None
    embedding: str = ""
    with_rows: "Callable[[int], Model] | None" = None
    train_apply: TrainApply | None = None
    loss: Loss = cross_entropy
    label_shape: tuple[int, ...] = ()
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    draws: bool = False
    untried: bool = False

    def __post_init__(self) -> None:
        if self.layout.carried and self.train_apply is None:
            raise UserError(f"model '{self.name}' carries {', '.join(self.layout.carried)}, but has no `train_apply`")
        if self.gradient is not None and self.train_apply is not None:
            raise UserError(f"model '{self.name}' has both `gradient` and `train_apply`; allowed: one of them")

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the tensors that ``apply`` takes: named views of flat parameters, and the constants.

        Args:
            flat: parameters ``(D,)``.

        Returns:
            name -> tensor.
        """
        return {**self.layout.views(flat), **self.constants}

    def to(self, where: Any) -> "Model":
        """Move the constants to a device, or convert those of a float type.

        Args:
            where: device or dtype.

        Returns:
            the model with the moved constants; the same model if it has none.
        """
        if not self.constants:
            return self
        kept = isinstance(where, torch.dtype)
        moved = {
            name: value if kept and not value.is_floating_point() else value.to(where)
            for name, value in self.constants.items()
        }
        return replace(self, constants=moved)


def uniform_start(layout: Layout, bounds: Mapping[str, float], stream: np.random.Generator) -> Tensor:
    """Draw each parameter uniformly from ``[-bound, bound]``.

    Args:
        layout: names and shapes.
        bounds: name -> bound.
        stream: random stream.

    Returns:
        flat initial parameters ``(D,)`` float32.
    """
    drawn = [bounds[name] * stream.uniform(-1, 1, shape) for name, shape in layout.shapes.items()]
    return torch.from_numpy(np.concatenate([each.ravel() for each in drawn]).astype(np.float32))
