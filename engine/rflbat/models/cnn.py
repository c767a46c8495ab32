"""The paper's convolutional network for FEMNIST.

Axes: B batch, C classes.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear, max_pool2d

from rflbat.errors import UserError
from rflbat.models.base import Model, uniform_start
from rflbat.parameters import Layout


def cnn(shape: tuple[int, ...], classes: int, words: int = 0) -> Model:
    """Two convolutions and one linear layer: 7x7x32, 3x3x64, each ReLU and 2x2 max-pool; 214,590 parameters on FEMNIST.

    Both convolutions keep height and width ("same" padding). The pool comes before the ReLU: both are monotonic, so
    the result and the gradient are those of the other order, on a quarter of the numbers. Weights and biases start
    uniform in ``[-1/sqrt(fan in), 1/sqrt(fan in)]``, as torch.nn does.

    Args:
        shape: shape of one image, (channels, height, width).
        classes: number of classes C, at least 2.
        words: 0: images have no vocabulary.

    Returns:
        the functional model.

    Raises:
        UserError: the samples are no images of at least 4 x 4 pixels.

    Example:
        >>> cnn((1, 28, 28), 62).layout.size
        214590

    Source: Wang et al. 2022 (RFLBAT), table 1.
    """
    if len(shape) != 3 or min(shape[1:]) < 4:
        raise UserError(f"model 'cnn' needs images of at least 4 x 4 pixels; these samples have the shape {shape}")
    channels, height, width = shape
    features = 64 * (height // 4) * (width // 4)
    layout = Layout(
        {
            "conv1.weight": (32, channels, 7, 7),
            "conv1.bias": (32,),
            "conv2.weight": (64, 32, 3, 3),
            "conv2.bias": (64,),
            "linear.weight": (classes, features),
            "linear.bias": (classes,),
        }
    )
    fans = {"conv1": channels * 49, "conv2": 32 * 9, "linear": features}
    bounds = {name: 1 / math.sqrt(fans[name.partition(".")[0]]) for name in layout.shapes}

    def init(stream: np.random.Generator) -> Tensor:
        return uniform_start(layout, bounds, stream)

    def apply(parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        # Channels last: on a CPU only there pooling runs through vector registers. By way of a flat vector, because
        # with one channel any strides pass for contiguous, and the strides decide how the convolution lays out.
        x = x.permute(0, 2, 3, 1).flatten().view(len(x), height, width, channels).permute(0, 3, 1, 2)
        x = conv2d(x, parameters["conv1.weight"], parameters["conv1.bias"], padding=3)
        x = torch.relu(max_pool2d(x, 2))
        x = conv2d(x, parameters["conv2.weight"], parameters["conv2.bias"], padding=1)
        x = torch.relu(max_pool2d(x, 2))
        return linear(x.flatten(1), parameters["linear.weight"], parameters["linear.bias"])

    return Model("cnn", layout, init, apply, cpu_backend="loop")
