"""Slow float64 oracle of local training: SGD and Adam on softmax regression, sample by sample, by the textbook.

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
    clip_norm: float | None = None,
    adam: bool = False,
) -> tuple[Array, Array]:
    """Train one client, one step a batch.

    The gradient of both parameters together is shortened to `clip_norm`; g += decay p. Then v = momentum v + g and
    p -= lr v, with v = 0 at first; or Adam: m = 0.9 m + 0.1 g, s = 0.999 s + 0.001 g^2, p -= lr m' / (sqrt(s') + 1e-8)
    with m' = m / (1 - 0.9^t) and s' = s / (1 - 0.999^t) in step t = 1, 2, ...
    """
    parameters = [np.array(weight_CF, dtype=np.float64), np.array(bias_C, dtype=np.float64)]
    velocities = [np.zeros_like(parameter) for parameter in parameters]
    squares = [np.zeros_like(parameter) for parameter in parameters]
    for t, batch in enumerate(batches, start=1):
        gradients = list(gradient(parameters[0], parameters[1], batch))
        if clip_norm is not None:
            length = math.sqrt(sum(float(g) ** 2 for each in gradients for g in each.reshape(-1)))
            gradients = [each * min(1.0, clip_norm / (length + 1e-6)) for each in gradients]
        for i in range(2):
            g = gradients[i] + weight_decay * parameters[i]
            if adam:
                velocities[i] = 0.9 * velocities[i] + 0.1 * g
                squares[i] = 0.999 * squares[i] + 0.001 * g**2
                scaled = np.sqrt(squares[i] / (1 - 0.999**t)) + 1e-8
                parameters[i] = parameters[i] - lr * velocities[i] / (1 - 0.9**t) / scaled
            else:
                velocities[i] = momentum * velocities[i] + g
                parameters[i] = parameters[i] - lr * velocities[i]
    return parameters[0], parameters[1]
