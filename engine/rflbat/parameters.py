"""The flat parameter buffer of all clients and its named views. Parameters are flattened only in this module.

Axes: N clients of the round, D parameters.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Positions of the named parameters in a flat vector of ``size`` numbers.

    Args:
        shapes: name and shape of each parameter, in the order of the flat vector.

    Example:
        >>> layout = Layout({"weight": (2, 3), "bias": (2,)})
        >>> layout.size
        8
        >>> layout.views(torch.zeros(5, 8))["weight"].shape
        torch.Size([5, 2, 3])
    """

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        """Number of parameters D."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def offset(self, name: str) -> int:
        """Return the position at which a parameter starts in a flat vector.

        Args:
            name: name of the parameter.

        Returns:
            position of its first number.

        Raises:
            KeyError: the layout has no such parameter.

        Example:
            >>> Layout({"weight": (2, 3), "bias": (2,)}).offset("bias")
            6
        """
        self.shapes[name]
        names = list(self.shapes)
        return sum(math.prod(self.shapes[before]) for before in names[: names.index(name)])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return named views of a flat ``(..., D)`` buffer, which share its memory.

        Args:
            flat: buffer whose last axis holds all D parameters.

        Returns:
            name -> view of shape ``(..., *shape)``.

        Raises:
            ValueError: the last axis is not of length D.
        """
        if flat.shape[-1] != self.size:
            raise ValueError(f"the buffer holds {flat.shape[-1]} parameters, but the layout has {self.size}")
        named, start = {}, 0
        for name, shape in self.shapes.items():
            length = math.prod(shape)
            named[name] = flat[..., start : start + length].view((*flat.shape[:-1], *shape))
            start += length
        return named

    def flatten(self, named: Mapping[str, Tensor]) -> Tensor:
        """Concatenate named parameters into one new flat vector ``(D,)``, in the order of the layout.

        Args:
            named: name -> tensor of the layout's shape.

        Returns:
            contiguous vector of D numbers.
        """
        return torch.cat([named[name].reshape(-1) for name in self.shapes])
