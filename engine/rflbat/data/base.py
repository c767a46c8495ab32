"""The data set type: tensors, and the facts needed to interpret them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rflbat.errors import UserError


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set stored whole on one device, in its storage type (47 MB for MNIST as uint8).

    ``as_inputs`` converts stored samples to model inputs: float value = stored value * scale + offset for images,
    token ids for texts.

    Attributes:
        name: name in the registry.
        train_x: (n, *shape) uint8 or float32, as stored; for texts (n, tokens) int32 indices into ``words``.
        train_y: (n,) int64 in 0..classes-1.
        test_x: (m, *shape), as ``train_x``.
        test_y: (m,), as ``train_y``.
        classes: number of labels.
        shape: shape of one sample, such as (1, 28, 28).
        low: background value after conversion to float.
        high: ink value after conversion to float; triggers are stamped with it.
        scale: factor from stored to float values: 1/255 for uint8, negative if the polarity is inverted.
        train_writers: (n,) int64, the writer of each training sample (any integers), or None if unknown.
        model: name of the default model.
        source: where the samples were read from.
        words: the vocabulary of a text data set, index = token id; None for images.
        encode: for texts, a function from a text to its token ids with the same tokenizer and vocabulary, without
            truncation or padding.
        offset: added to the scaled values.

    Example:
        >>> pixels, labels = torch.tensor([[0, 255]], dtype=torch.uint8), torch.tensor([1])
        >>> toy = Dataset("toy", pixels, labels, pixels, labels, 2, (2,), 0.0, 1.0, 1 / 255, None, "logistic", "here")
        >>> as_inputs(toy.train_x, toy)
        tensor([[0., 1.]])
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    shape: tuple[int, ...]
    low: float
    high: float
    scale: float
    train_writers: Tensor | None
    model: str
    source: str
    words: tuple[str, ...] | None = None
    encode: Callable[[str], list[int]] | None = None
    offset: float = 0.0


def as_inputs(x: Tensor, dataset: Dataset) -> Tensor:
    """Convert stored samples to inputs of models and triggers: x * scale + offset as floats, or token ids.

    Args:
        x: stored samples of ``dataset``, with any leading shape.
        dataset: the data set, which holds the scale and the offset.

    Returns:
        float32 (images) or int64 (texts) of x's shape on x's device. Always new memory, so that a trigger stamped into
        it does not change the data set.

    Example:
        >>> from rflbat.data.digits import load
        >>> digits = load()
        >>> batch = as_inputs(digits.train_x[:3], digits)
        >>> batch.dtype, float(batch.max()) <= digits.high
        (torch.float32, True)
    """
    if dataset.words is not None:
        return x.to(torch.int64, copy=True)
    # Deliberately out of place: for float32 storage, ``.to`` alone would return the data set's own memory.
    inputs = torch.mul(x, dataset.scale).to(torch.float32)
    return inputs.add_(dataset.offset) if dataset.offset else inputs


def standardized(dataset: Dataset, mean: float, std: float) -> Dataset:
    """Standardize images to ``(x - mean) / std``; the background and ink values change accordingly.

    Args:
        dataset: an image data set.
        mean: subtracted from the float values; 0 has no effect.
        std: divisor applied after the subtraction, above 0; 1 has no effect.

    Returns:
        the data set with a new scale, offset, background and ink; it shares the stored samples.

    Raises:
        UserError: ``mean`` is not finite, or ``std`` is not a finite number above 0.

    Example:
        >>> from rflbat.data.digits import load
        >>> round(standardized(load(), 0.5, 0.25).high, 3)
        2.0
    """
    if not math.isfinite(mean):
        raise UserError(f"mean={mean} is out of range; allowed: a finite number")
    if not (math.isfinite(std) and std > 0):
        raise UserError(f"std={std} is out of range; allowed: a finite number above 0")
    return replace(
        dataset,
        scale=dataset.scale / std,
        offset=(dataset.offset - mean) / std,
        low=(dataset.low - mean) / std,
        high=(dataset.high - mean) / std,
    )
