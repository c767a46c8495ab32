"""Multinomial logistic regression, the paper's model for MNIST.

Axes: n clients of a chunk, B batch, F features of a sample, C classes.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from rflbat.errors import UserError
from rflbat.models.base import Gradients, Model
from rflbat.parameters import Layout


def logistic(shape: tuple[int, ...], classes: int, words: int = 0) -> Model:
    """Logistic regression: ``logits = W x + b``, with W stored as (classes, features).

    28 x 28 images and 10 classes give 7,850 parameters. Weights and biases are initialised uniformly in ``[-1/sqrt(F),
    1/sqrt(F)]``, as in torch.nn.Linear.

    Args:
        shape: shape of one sample; samples are flattened.
        classes: number of classes C, at least 2.
        words: must be 0, since token ids are not features.

    Returns:
        the functional model.

    Raises:
        UserError: the samples are texts.

    Example:
        >>> logistic((1, 28, 28), 10).layout.size
        7850

    Source: Wang et al. 2022 (RFLBAT), table 1.
    """
    if words:
        raise UserError("model 'logistic' needs numeric features; got texts; allowed for texts: lstm")
    features = math.prod(shape)
    layout = Layout({"weight": (classes, features), "bias": (classes,)})

    def init(stream: np.random.Generator) -> Tensor:
        bound = 1 / math.sqrt(features)
        return torch.from_numpy(stream.uniform(-bound, bound, layout.size).astype(np.float32))

    def apply(parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x.flatten(1), parameters["weight"], parameters["bias"])

    def gradient(parameters: Mapping[str, Tensor], x_nB: Tensor, labels_nB: Tensor, weight_nB: Tensor) -> Gradients:
        # Samples on the last axis: both products then read the batch in memory order, twice as fast as the transpose.
        x_nBF, weight_nCF = x_nB.flatten(2), parameters["weight"]
        logits_nCB = torch.baddbmm(parameters["bias"][:, :, None], weight_nCF, x_nBF.mT)
        error_nCB = torch.softmax(logits_nCB, 1).scatter_(1, labels_nB[:, None], -1, reduce="add")
        share_nB = weight_nB.to(error_nCB.dtype) / weight_nB.sum(1, keepdim=True)
        error_nCB.mul_(share_nB[:, None])
        return {"weight": torch.bmm(error_nCB, x_nBF), "bias": error_nCB.sum(2)}

    return Model("logistic", layout, init, apply, cpu_backend="analytic", gradient=gradient)
