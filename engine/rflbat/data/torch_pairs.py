"""Data sets from map-style torch data sets.

Axes: n samples.
"""

import math
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

    Samples are tensors, numpy arrays or PIL images, all of one shape and type; images without a channel axis get one,
    and PIL images get their channels first. Samples of uint8 are stored as such and fed as values of 0 to 1, all others
    are stored and fed as float32. Random transforms of the data set itself are thus drawn once, when the samples are
    read; the setting ``augment`` draws anew in each step.

    Args:
        train: training pairs (sample, label), at least one.
        test: test pairs, at least one.
        name: name of the data set.
        classes: number of labels, at least 2 and above the largest one; default the largest plus 1.
        model: name of the default model.
        mean: subtracted from the values, finite (0).
        std: divisor applied after the subtraction, above 0 (1).

    Returns:
        the data set; its background is the smallest and its ink the largest value of the training samples.

    Raises:
        UserError: a data set is empty or not map-style; samples differ in shape or type, or are no finite real numbers;
            a label is no integer or out of range.

    Example:
        >>> pairs = [(torch.zeros(1, 4, 4), 0), (torch.ones(1, 4, 4), 1)]
        >>> data = from_torch(pairs, pairs)
        >>> data.classes, data.shape, data.high
        (2, (1, 4, 4), 1.0)
    """
    train_x, train_y = _read(train, "training")
    test_x, test_y = _read(test, "test")
    for what, own, other in (
        ("shape", tuple(train_x.shape[1:]), tuple(test_x.shape[1:])),
        ("type", train_x.dtype, test_x.dtype),
    ):
        if own != other:
            raise UserError(
                f"data set '{name}': samples have the {what} {own} in the training set and {other} in the test set; "
                f"allowed: one {what}"
            )
    largest = int(max(train_y.max(), test_y.max()))
    count = largest + 1 if classes is None else classes
    if count < 2:
        raise UserError(f"data set '{name}': the number of labels is {count}; allowed: at least 2 (classes=...)")
    if largest >= count:
        raise UserError(f"data set '{name}': label {largest} is out of range; allowed: 0 to {count - 1}")
    scale = 1 / 255 if train_x.dtype == torch.uint8 else 1.0
    if train_x.dtype != torch.uint8:
        train_x, test_x = _as_float(train_x, name, "training"), _as_float(test_x, name, "test")
    low, high = (float(value) * scale for value in torch.aminmax(train_x))
    made = Dataset(
        *(name, train_x, train_y, test_x, test_y, count, tuple(train_x.shape[1:])),
        *(low, high, scale, None, model, "torch data sets"),
    )
    return standardized(made, mean, std)


def _as_float(x: Tensor, name: str, part: str) -> Tensor:
    """Convert samples to float32; they must be finite in it."""
    x = x.to(torch.float32)
    finite_n = x.flatten(1).isfinite().all(1)
    if not finite_n.all():
        place = int(finite_n.logical_not().to(torch.uint8).argmax())
        raise UserError(f"data set '{name}': {part} sample {place} holds a NaN or an infinity as float32")
    return x


def _read(pairs: MapStyle, part: str) -> tuple[Tensor, Tensor]:
    """Read all pairs of a data set."""
    if not (hasattr(pairs, "__len__") and hasattr(pairs, "__getitem__")):
        raise UserError(
            f"the {part} data set is a {type(pairs).__name__} without length or positions; allowed: map-style data "
            "sets, with __len__ and __getitem__"
        )
    count = len(pairs)
    if not count:
        raise UserError(f"the {part} data set is empty; at least one pair (sample, label) is needed")
    samples: list[Tensor] = []
    labels: list[int] = []
    for place in range(count):
        pair = pairs[place]
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UserError(f"{part} item {place} is a {type(pair).__name__}; allowed: pairs (sample, label)")
        samples.append(_sample(pair[0], f"{part} sample {place}"))
        labels.append(_label(pair[1], f"{part} label {place}"))
        for what, own, first in (
            ("shape", tuple(samples[-1].shape), tuple(samples[0].shape)),
            ("type", samples[-1].dtype, samples[0].dtype),
        ):
            if own != first:
                raise UserError(
                    f"{part} sample {place} has the {what} {own}, the first one {first}; allowed: one {what}"
                )
    return torch.stack(samples), torch.tensor(labels)


def _sample(value: Any, what: str) -> Tensor:
    if isinstance(value, Tensor):
        found = value.detach().cpu()
        if found.is_complex():
            raise UserError(f"{what} is of type {found.dtype}; allowed: real numbers")
    else:
        if getattr(value, "mode", None) in ("P", "PA"):
            raise UserError(
                f"{what} is an image with a palette, whose numbers are no colours; use image.convert('RGB')"
            )
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise UserError(f"{what} is a {type(value).__name__} of unequal parts: {error}") from error
        if array.dtype.kind not in "biuf":
            raise UserError(f"{what} is a {type(value).__name__}; allowed: tensors, numeric arrays and images")
        found = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
        if not isinstance(value, np.ndarray | Sequence) and found.ndim == 3:  # an image, whose channels are last
            found = found.movedim(-1, 0)
    found = found.to(torch.float32) if found.is_floating_point() else found
    found = found[None] if found.ndim == 2 else found
    if not found.numel() or not found.ndim:
        shape = tuple(found.shape)
        raise UserError(f"{what} has the shape {shape}; allowed: tensors with at least one axis and one number")
    return found.contiguous()


def _label(value: Any, what: str) -> int:
    single = isinstance(value, Tensor | np.ndarray) and math.prod(value.shape) == 1
    number = value.item() if single else value
    if isinstance(number, bool | np.bool_) or not isinstance(number, int | np.integer) or number < 0:
        raise UserError(f"{what} is {repr(number)[:40]}; allowed: integers of at least 0")
    return int(number)
