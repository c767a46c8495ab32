"""ResNet-18 of any width, with batch or group normalisation.

Axes: B batch, C channels.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rflbat.errors import UserError
from rflbat.models.base import Model
from rflbat.models.modules import from_module

NORMS = ("batch", "group")
STEMS = ("auto", "small", "large")
SMALL = 64
"""Largest side of an image in pixels for which ``stem="auto"`` takes the small stem."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; the parameters have torchvision's names."""

    def __init__(self, inner: int, channels: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, channels, 3, stride, padding=1, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or inner != channels:
            self.downsample = nn.Sequential(nn.Conv2d(inner, channels, 1, stride, bias=False), norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on ``(B, C, height, width)``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + shortcut)


class ResNet18(nn.Module):
    """Four stages of two blocks, of 1, 2, 4 and 8 times ``width`` channels.

    With ``width=64`` and the large stem it is torchvision's ``resnet18``, with the same names, shapes and
    initialisation.
    """

    def __init__(self, channels: int, classes: int, width: int, norm: Callable[[int], nn.Module], large: bool) -> None:
        super().__init__()
        if large:
            self.conv1 = nn.Conv2d(channels, width, 7, 2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, 2, padding=1)
        else:
            self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = norm(width)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(BasicBlock(inner, size, stride, norm), BasicBlock(size, size, 1, norm))
            for inner, size, stride in zip(sizes, sizes[1:], (1, 2, 2, 2), strict=False)
        )
        self.fc = nn.Linear(8 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Classify images ``(B, channels, height, width)``."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def groups(channels: int) -> int:
    """Choose the number of groups of a group normalisation: groups of at least four channels, at most 32 groups.

    Args:
        channels: number of channels.

    Returns:
        a divisor of ``channels``.

    Example:
        >>> groups(8), groups(64), groups(512)
        (2, 16, 32)
    """
    return math.gcd(channels, min(32, max(1, channels // 4)))


def resnet(
    shape: tuple[int, ...], classes: int, words: int = 0, *, width: int = 64, norm: str = "batch", stem: str = "auto"
) -> Model:
    """ResNet-18, narrowed by ``width``; 11,173,962 parameters for CIFAR-10 at the full width of 64.

    With batch normalisation the running statistics are carried: clients send them, and ``--batch-norm`` decides whether
    the server averages them. Group normalisation has no such state. Names, shapes and initialisation are torchvision's.

    Args:
        shape: shape of one image, (channels, height, width).
        classes: number of classes, at least 2.
        words: must be 0, since token ids are not pixels.
        width: channels of the first stage, at least 1; the others have 2, 4 and 8 times as many.
        norm: "batch", or "group" with up to 32 groups of at least four channels.
        stem: "small", a 3x3 convolution, or "large", a 7x7 convolution of stride 2 and max-pooling as for ImageNet;
            "auto" is small for images of up to 64 pixels.

    Returns:
        the functional model.

    Raises:
        UserError: the samples are no images, or a parameter is out of range.

    Example:
        >>> model = resnet((3, 32, 32), 10, width=8)
        >>> model.layout.trained, model.layout.size - model.layout.trained
        (176402, 1220)

    Source: He et al. 2016, "Deep residual learning for image recognition"; Wu and He 2018 (group normalisation).
    """
    if words or len(shape) != 3:
        raise UserError(f"model 'resnet' needs images; got {'texts' if words else f'samples of shape {shape}'}")
    if width < 1:
        raise UserError(f"model 'resnet': width={width} is out of range; allowed: at least 1 channel")
    for name, value, allowed in (("norm", norm, NORMS), ("stem", stem, STEMS)):
        if value not in allowed:
            raise UserError(f"model 'resnet': {name}={value!r}; allowed: {', '.join(allowed)}")
    large = stem == "large" or (stem == "auto" and max(shape[1:]) > SMALL)

    def build() -> nn.Module:
        normalise = nn.BatchNorm2d if norm == "batch" else lambda size: nn.GroupNorm(groups(size), size)
        return ResNet18(shape[0], classes, width, normalise, large)

    return from_module(build, name="resnet", untried=False)
