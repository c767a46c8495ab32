"""Augmentation of training images: each sample of a batch is changed by draws of its own, on the device of the round.

Axes: N clients of the round, n clients of a chunk, B samples, H height, W width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rflbat.errors import UserError
from rflbat.randomness import hashed

Augment = Callable[[Tensor, slice | Tensor, int], Tensor]
"""``augment(x, rows, step)`` returns the samples ``(n B, *shape)`` of some clients in a local step, augmented. Rows are
a slice, or int64 positions on the device."""


@dataclass(frozen=True)
class Augmentation:
    """One change of images.

    Args:
        name: registry name.
        apply: (``x_B`` of shape ``(B, channels, H, W)``, int64 ``key_B``) -> images of the same shape. Sample b draws
            ``rflbat.randomness.hashed(key_B[b], 0)``, ``hashed(key_B[b], 1)``, ... and nothing else. It does not wait
            for the device, and may write to ``x_B``.
    """

    name: str
    apply: Callable[[Tensor, Tensor], Tensor]


def _side(name: str, shape: tuple[int, ...]) -> int:
    """Return the shorter side of the images."""
    if len(shape) != 3:
        raise UserError(f"augmentation '{name}' needs images (channels, height, width); got samples of shape {shape}")
    return min(shape[1:])


def crop(shape: tuple[int, ...], low: float, *, padding: int = 4) -> Augmentation:
    """Random crop: the image is framed by ``padding`` pixels of background, and a window of its own size is cut out.

    The window starts at row ``r`` and column ``c`` of the framed image, each uniform in ``0..2 padding``:
    ``y[i, j] = x[i + r - padding, j + c - padding]`` where that pixel exists, else the background.

    Args:
        shape: shape of one image, (channels, height, width).
        low: value of the background: 0 before standardisation, for most data sets.
        padding: width of the frame in pixels, 1 to the shorter side of the image (4, as for CIFAR-10).

    Returns:
        the augmentation.

    Raises:
        UserError: the samples are not images, or the padding is out of range.

    Example:
        >>> image = torch.arange(9.0).view(1, 1, 3, 3)
        >>> crop((1, 3, 3), -1.0, padding=1).apply(image, torch.tensor([5]))[0, 0].tolist()
        [[-1.0, 3.0, 4.0], [-1.0, 6.0, 7.0], [-1.0, -1.0, -1.0]]

    Source: He et al. 2016, "Deep residual learning for image recognition", section 4.2 (CIFAR-10); torchvision's
    ``RandomCrop(size, padding)``.
    """
    side = _side("crop", shape)
    if not 1 <= padding <= side:
        raise UserError(f"augmentation 'crop': padding={padding} is out of range; allowed: 1 to {side}")
    choices = 2 * padding + 1

    def places(key_B: Tensor, number: int, length: int) -> tuple[Tensor, Tensor]:
        """Return the row or column that each pixel comes from, and whether it is in the image."""
        first_B = hashed(key_B, number) % choices - padding
        place_BL = torch.arange(length, device=key_B.device) + first_B[:, None]
        return place_BL.clamp(0, length - 1), (place_BL >= 0) & (place_BL < length)

    def apply(x_B: Tensor, key_B: Tensor) -> Tensor:
        (row_BH, in_BH), (column_BW, in_BW) = (places(key_B, at, length) for at, length in enumerate(shape[1:]))
        cut_B = x_B.gather(2, row_BH[:, None, :, None].expand_as(x_B))
        cut_B = cut_B.gather(3, column_BW[:, None, None, :].expand_as(x_B))
        return torch.where(in_BH[:, None, :, None] & in_BW[:, None, None, :], cut_B, low)

    return Augmentation("crop", apply)


def flip(shape: tuple[int, ...], low: float) -> Augmentation:
    """Horizontal flip: half of the images are mirrored left to right.

    Args:
        shape: shape of one image, (channels, height, width).
        low: value of the background; not used.

    Returns:
        the augmentation.

    Raises:
        UserError: the samples are not images.

    Example:
        >>> images = torch.arange(3.0).expand(2, 1, 1, 3)
        >>> flip((1, 1, 3), 0.0).apply(images, torch.tensor([0, 1]))[:, 0, 0].tolist()
        [[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]]

    Source: torchvision's ``RandomHorizontalFlip``.
    """
    _side("flip", shape)

    def apply(x_B: Tensor, key_B: Tensor) -> Tensor:
        return torch.where((hashed(key_B, 0) < 0)[:, None, None, None], x_B.flip(3), x_B)

    return Augmentation("flip", apply)


def by_key(augmentations: Sequence[Augmentation], key_N: Tensor | None) -> Augment | None:
    """Augment the batches of a round, with draws that depend on the client, the step and the place in the batch alone.

    The key of augmentation a of sample b of client i in step s is ``hash(hash(hash(key_N[i], s), b), a)``, so neither
    the chunk, the back end nor the number of ranks changes a draw.

    Args:
        augmentations: in the order in which they are applied.
        key_N: int64, drawn key of each client of the round, on its device; None: nothing is augmented.

    Returns:
        function of a batch; None if nothing is augmented.

    Example:
        >>> mirrored = by_key([flip((1, 1, 3), 0.0)], torch.tensor([5, 6]))
        >>> mirrored(torch.arange(3.0).repeat(4, 1, 1, 1), slice(0, 2), 0)[:, 0, 0].tolist()
        [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]
    """
    if key_N is None or not augmentations:
        return None

    def augment(x: Tensor, rows: slice | Tensor, step: int) -> Tensor:
        key_n = key_N[rows]
        place_B = torch.arange(len(x) // max(1, len(key_n)), device=x.device)
        key_nB = hashed(hashed(key_n, step)[:, None], place_B).reshape(-1)
        for number, each in enumerate(augmentations):
            x = each.apply(x, hashed(key_nB, number))
        return x

    return augment
