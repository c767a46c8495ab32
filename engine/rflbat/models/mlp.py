"""The multilayer perceptron of the FedAvg paper, called 2NN there.

Axes: B batch, C classes.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from rflbat.errors import UserError
from rflbat.models.base import Model, uniform_start
from rflbat.parameters import Layout


def mlp(shape: tuple[int, ...], classes: int, words: int = 0, *, hidden: int = 200) -> Model:
    """Two hidden layers with ReLU, and a linear layer.

    28 x 28 images and 10 classes give 199,210 parameters. Weights and biases are initialised uniformly in
    ``[-1/sqrt(fan in), 1/sqrt(fan in)]``, as in torch.nn.Linear.

    Args:
        shape: shape of one sample; samples are flattened.
        classes: number of classes C, at least 2.
        words: must be 0, since token ids are not features.
        hidden: units of each hidden layer, at least 1.

    Returns:
        the functional model.

    Raises:
        UserError: the samples are texts, or a layer has no units.

    Example:
        >>> mlp((1, 28, 28), 10).layout.size
        199210

    Source: McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data", section 3
    (2NN).
    """
    if words:
        raise UserError("model 'mlp' needs numeric features; got texts; allowed for texts: lstm")
    if hidden < 1:
        raise UserError(f"model 'mlp': hidden={hidden} is out of range; allowed: at least 1 unit")
    fans = {"hidden1": math.prod(shape), "hidden2": hidden, "linear": hidden}
    units = {"hidden1": hidden, "hidden2": hidden, "linear": classes}
    layout = Layout(
        {
            f"{layer}.{part}": size
            for layer, fan in fans.items()
            for part, size in (("weight", (units[layer], fan)), ("bias", (units[layer],)))
        }
    )
    bounds = {name: 1 / math.sqrt(fans[name.partition(".")[0]]) for name in layout.shapes}

    def init(stream: np.random.Generator) -> Tensor:
        return uniform_start(layout, bounds, stream)

    def apply(parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        x = x.flatten(1)
        x = torch.relu(linear(x, parameters["hidden1.weight"], parameters["hidden1.bias"]))
        x = torch.relu(linear(x, parameters["hidden2.weight"], parameters["hidden2.bias"]))
        return linear(x, parameters["linear.weight"], parameters["linear.bias"])

    return Model("mlp", layout, init, apply)
