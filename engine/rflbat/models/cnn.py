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
    """Two convolutions (7x7x32, 3x3x64), each with ReLU and 2x2 max-pool, and a linear layer.

    For FEMNIST it has 214,590 parameters.

    Both convolutions keep height and width ("same" padding). Pooling precedes the ReLU: both are monotonic, so outputs
    and gradients equal those of the other order, at a quarter of the ReLU's work. Weights and biases are initialised
    uniformly in ``[-1/sqrt(fan in), 1/sqrt(fan in)]``, as in torch.nn.

    Args:
        shape: shape of one image, (channels, height, width).
        classes: number of classes C, at least 2.
        words: ignored, since images have no vocabulary (0).

    Returns:
        the functional model.

    Raises:
        UserError: the samples are not images of at least 4 x 4 pixels.

    Example:
        >>> cnn((1, 28, 28), 62).layout.size
        214590

    Source: Wang et al. 2022 (RFLBAT), table 1.
    """
    if len(shape) != 3 or min(shape[1:]) < 4:
        raise UserError(f"model 'cnn' needs images of at least 4 x 4 pixels; got samples of shape {shape}")
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
        # Channels last: on a CPU, pooling is vectorised only in this memory format. Go through a flat tensor, because
        # with one channel any strides count as contiguous, and the strides decide the layout of the convolution.
        x = x.permute(0, 2, 3, 1).flatten().view(len(x), height, width, channels).permute(0, 3, 1, 2)
        x = conv2d(x, parameters["conv1.weight"], parameters["conv1.bias"], padding=3)
        x = torch.relu(max_pool2d(x, 2))
        x = conv2d(x, parameters["conv2.weight"], parameters["conv2.bias"], padding=1)
        x = torch.relu(max_pool2d(x, 2))
        return linear(x.flatten(1), parameters["linear.weight"], parameters["linear.bias"])

    return Model("cnn", layout, init, apply, cpu_backend="loop")
