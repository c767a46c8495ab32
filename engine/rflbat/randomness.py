"""Random draws keyed by (seed, purpose, round), made on the host for all clients of a round.

The key names a counter-based stream, so a draw depends on nothing else: not on the device, the chunk size, the
back end, or on how many draws were made before. A run can therefore stop and resume without storing any state.
"""

import math
from collections.abc import Callable
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

Draw = Callable[..., Tensor]
"""``draw(*shape)`` gives float64 uniforms in [0, 1) on the device of the round; each call continues the stream."""


def generator(seed: int, purpose: str, round_number: int = 0) -> np.random.Generator:
    """Open the stream of (seed, purpose, round).

    Args:
        seed: seed of the run, any integer.
        purpose: what the numbers are for ("batches", "roles", ...); different purposes are independent streams.
        round_number: round, from 0.

    Returns:
        numpy generator over Philox, keyed by a 128-bit hash of the three.

    Example:
        >>> generator(0, "batches", 3).random() == generator(0, "batches", 3).random()
        True
    """
    digest = blake2b(f"{seed}/{purpose}/{round_number}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def draw_source(seed: int, purpose: str, round_number: int, device: torch.device | str) -> Draw:
    """Give a source of uniforms to code that must stay on the device (defenses).

    Args:
        seed: seed of the run.
        purpose: name of the stream.
        round_number: round, from 0.
        device: where the numbers are wanted; they are drawn on the host and copied once.

    Returns:
        function of a shape.

    Example:
        >>> draw_source(0, "defense", 0, "cpu")(2, 3).shape
        torch.Size([2, 3])
    """
    stream = generator(seed, purpose, round_number)

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(stream.random(shape)).to(device)

    return draw


def replayed(numbers_U: Tensor) -> Draw:
    """Give uniforms that were drawn and copied before: the same numbers as ``draw_source``, without a copy per call.

    Args:
        numbers_U: float64, on the device of the round.

    Returns:
        function of a shape; it deals the numbers out in order.

    Raises:
        ValueError: from that function, when more numbers are asked for than are left.

    Example:
        >>> draw = replayed(torch.tensor([0.25, 0.5, 0.75]))
        >>> draw(1, 2).tolist(), draw(1).tolist()
        ([[0.25, 0.5]], [0.75])
    """
    drawn = 0

    def draw(*shape: int) -> Tensor:
        nonlocal drawn
        first, drawn = drawn, drawn + math.prod(shape)
        if drawn > len(numbers_U):
            raise ValueError(f"{drawn} uniforms are drawn, but the defense's `num_uniforms` says {len(numbers_U)}")
        return numbers_U[first:drawn].view(shape)

    return draw
