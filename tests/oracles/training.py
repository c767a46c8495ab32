"""Slow float64 oracle of local training: SGD on softmax regression, sample by sample, from the textbook formulas.

Axes: C classes, F features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sample:
    """One training sample: an image of any shape and its label."""

    image: Array
    label: int


def poison(sample: Sample, size: int, value: float, target: int) -> Sample:
    """Light the `size` x `size` pixels of the lower left corner, in every channel, and change the label."""
    image = np.array(sample.image, dtype=np.float64)
    channels, height, _ = image.shape
    for channel in range(channels):
        for up in range(size):
            for right in range(size):
                image[channel, height - 1 - up, right] = value
    return Sample(image, target)


def probabilities(weight_CF: Array, bias_C: Array, image: Array) -> list[float]:
    """softmax(W x + b), shifted by its largest logit."""
    x_F = image.reshape(-1)
    logits = [sum(w * x for w, x in zip(row, x_F, strict=True)) + b for row, b in zip(weight_CF, bias_C, strict=True)]
    powers = [math.exp(logit - max(logits)) for logit in logits]
    return [power / sum(powers) for power in powers]


def gradient(weight_CF: Array, bias_C: Array, batch: Sequence[Sample]) -> tuple[Array, Array]:
    """Mean over the batch of d(-log p_label)/dW = (p - e_label) x' and of d/db = p - e_label."""
    grad_CF, grad_C = np.zeros_like(weight_CF), np.zeros_like(bias_C)
    for sample in batch:
        for c, probability in enumerate(probabilities(weight_CF, bias_C, sample.image)):
            error = probability - (c == sample.label)
            grad_CF[c] += error * sample.image.reshape(-1) / len(batch)
            grad_C[c] += error / len(batch)
    return grad_CF, grad_C


def train(
    weight_CF: ArrayLike,
    bias_C: ArrayLike,
    batches: Sequence[Sequence[Sample]],
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> tuple[Array, Array]:
    """Train one client, one step a batch: g += decay p; v = momentum v + g; p -= lr v, with v = 0 at first."""
    parameters = [np.array(weight_CF, dtype=np.float64), np.array(bias_C, dtype=np.float64)]
    velocities = [np.zeros_like(parameter) for parameter in parameters]
    for batch in batches:
        gradients = gradient(parameters[0], parameters[1], batch)
        for i in range(2):
            velocities[i] = momentum * velocities[i] + gradients[i] + weight_decay * parameters[i]
            parameters[i] = parameters[i] - lr * velocities[i]
    return parameters[0], parameters[1]
