"""Data sets from map-style torch data sets.

Axes: n samples.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rflbat.data.base import Dataset, standardized
from rflbat.errors import UserError


class MapStyle(Protocol):
    """A map-style data set, as ``torch.utils.data.Dataset``: pairs (sample, label) by position."""

    def __getitem__(self, index: int) -> Any:
        """Return the pair at a position."""

    def __len__(self) -> int:
        """Return the number of pairs."""


def from_torch(
    train: MapStyle,
    test: MapStyle,
    *,
    name: str = "torch",
    classes: int | None = None,
    model: str = "mlp",
    mean: float = 0.0,
    std: float = 1.0,
) -> Dataset:
    """Make a data set of two map-style torch data sets, which are read once and kept in memory.

    Samples are tensors, numpy arrays or PIL images, all of one shape; images without a channel axis get one, and PIL
    images get their channels first. Samples of uint8 are stored as such and fed as values of 0 to 1, all others as
    float32. Random transforms are drawn once, when the samples are read.

    Args:
        train: training pairs (sample, label), at least one.
        test: test pairs, at least one.
        name: name of the data set.
        classes: number of labels, above the largest one; default the largest plus 1.
        model: name of the default model.
        mean: subtracted from the values, finite (0).
        std: divisor applied after the subtraction, above 0 (1).

    Returns:
        the data set; its background is the smallest and its ink the largest value of the training samples.

    Raises:
        UserError: a data set is empty, samples differ in shape or are no numbers, or a label is out of range.

    Example:
        >>> pairs = [(torch.zeros(1, 4, 4), 0), (torch.ones(1, 4, 4), 1)]
        >>> data = from_torch(pairs, pairs)
        >>> data.classes, data.shape, data.high
        (2, (1, 4, 4), 1.0)
    """
    train_x, train_y = _read(train, "training")
    test_x, test_y = _read(test, "test")
    if train_x.shape[1:] != test_x.shape[1:]:
        shapes = f"{tuple(train_x.shape[1:])} in training and {tuple(test_x.shape[1:])} in the test set"
        raise UserError(f"data set '{name}': samples have the shape {shapes}; allowed: one shape")
    largest = int(max(train_y.max(), test_y.max()))
    count = largest + 1 if classes is None else classes
    if largest >= count:
        raise UserError(f"data set '{name}': label {largest} is out of range; allowed: 0 to {count - 1}")
    whole = train_x.dtype == test_x.dtype == torch.uint8
    scale = 1 / 255 if whole else 1.0
    if not whole:
        train_x, test_x = train_x.to(torch.float32), test_x.to(torch.float32)
    low, high = (float(value) * scale for value in torch.aminmax(train_x))
    made = Dataset(
        *(name, train_x, train_y, test_x, test_y, count, tuple(train_x.shape[1:])),
        *(low, high, scale, None, model, "torch data sets"),
    )
    return standardized(made, mean, std)


def _read(pairs: MapStyle, part: str) -> tuple[Tensor, Tensor]:
    """Read all pairs of a data set."""
    if not len(pairs):
        raise UserError(f"the {part} data set is empty; at least one pair (sample, label) is needed")
    samples: list[Tensor] = []
    labels: list[int] = []
    for place in range(len(pairs)):
        sample, label = pairs[place]
        samples.append(_sample(sample, f"{part} sample {place}"))
        labels.append(_label(label, f"{part} label {place}"))
        if samples[-1].shape != samples[0].shape:
            shapes = f"{tuple(samples[-1].shape)}, the first one {tuple(samples[0].shape)}"
            raise UserError(f"{part} sample {place} has the shape {shapes}; allowed: one shape")
    return torch.stack(samples), torch.tensor(labels)


def _sample(value: Any, what: str) -> Tensor:
    if isinstance(value, Tensor):
        found = value.detach().cpu()
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise UserError(f"{what} is a {type(value).__name__}; allowed: tensors, numeric arrays and images")
        found = torch.from_numpy(array.copy())
        if not isinstance(value, np.ndarray | Sequence) and found.ndim == 3:  # an image, whose channels are last
            found = found.movedim(-1, 0)
    found = found[None] if found.ndim == 2 else found
    if not found.ndim:
        raise UserError(f"{what} is a single number; allowed: tensors with at least one axis")
    return found.contiguous()


def _label(value: Any, what: str) -> int:
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 0:
        raise UserError(f"{what} is {value!r}; allowed: integers of at least 0")
    return int(number)
