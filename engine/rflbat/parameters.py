"""The flat parameter buffer of all clients and its named views. Parameters are flattened only in this module.

Axes: N clients of the round, D columns: the trained parameters first, the carried numbers behind them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Positions of the named numbers of a model in a flat vector: ``[trained | carried]``.

    The clients' optimizer moves the trained columns. The carried ones are the state of a model that local training
    writes without a gradient, such as the running statistics of batch normalisation.

    Args:
        shapes: name and shape of each trained parameter, in the order of the flat vector.
        carried: name and shape of each carried tensor, in the order of the flat vector; no name of ``shapes``.

    Example:
        >>> layout = Layout({"weight": (2, 3), "bias": (2,)}, carried={"mean": (4,)})
        >>> layout.trained, layout.size
        (8, 12)
        >>> layout.views(torch.zeros(5, 12))["weight"].shape
        torch.Size([5, 2, 3])
    """

    shapes: Mapping[str, tuple[int, ...]]
    carried: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def trained(self) -> int:
        """Number of trained columns."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def size(self) -> int:
        """Number of all columns D, trained and carried."""
        return sum(math.prod(shape) for shape in self._all.values())

    @property
    def trained_part(self) -> "Layout":
        """Layout of the trained columns alone; the same layout if nothing is carried."""
        return Layout(self.shapes) if self.carried else self

    @property
    def _all(self) -> Mapping[str, tuple[int, ...]]:
        return {**self.shapes, **self.carried} if self.carried else self.shapes

    def offset(self, name: str) -> int:
        """Return the position at which a parameter or a carried tensor starts in a flat vector.

        Args:
            name: its name.

        Returns:
            position of its first number.

        Raises:
            KeyError: the layout has no such parameter.

        Example:
            >>> Layout({"weight": (2, 3), "bias": (2,)}).offset("bias")
            6
        """
        everything = self._all
        everything[name]
        names = list(everything)
        return sum(math.prod(everything[before]) for before in names[: names.index(name)])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return named views of a flat ``(..., D)`` buffer, which share its memory.

        Args:
            flat: buffer whose last axis holds all D columns.

        Returns:
            name -> view of shape ``(..., *shape)``.

        Raises:
            ValueError: the last axis is not of length D.
        """
        if flat.shape[-1] != self.size:
            raise ValueError(f"the buffer holds {flat.shape[-1]} parameters, but the layout has {self.size}")
        named, start = {}, 0
        for name, shape in self._all.items():
            length = math.prod(shape)
            named[name] = flat[..., start : start + length].view((*flat.shape[:-1], *shape))
            start += length
        return named

    def flatten(self, named: Mapping[str, Tensor]) -> Tensor:
        """Concatenate named tensors into one new flat vector ``(D,)``, in the order of the layout.

        Args:
            named: name -> tensor of the layout's shape.

        Returns:
            contiguous vector of D numbers.
        """
        return torch.cat([named[name].reshape(-1) for name in self._all])
