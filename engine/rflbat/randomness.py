"""Random streams keyed by (seed, purpose, round), drawn on the host for all clients of a round.

The key selects a counter-based stream, so a draw does not depend on the device, the chunk size, the back end or the
number of earlier draws. A run can therefore stop and resume without storing generator state.
"""

import math
from collections.abc import Callable
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

Draw = Callable[..., Tensor]
"""``draw(*shape)`` returns float64 uniforms in [0, 1) on the device of the round. Each call continues the stream."""


def generator(seed: int, purpose: str, round_number: int = 0) -> np.random.Generator:
    """Open the random stream of (seed, purpose, round).

    Args:
        seed: seed of the run, any integer.
        purpose: name of the stream ("batches", "roles", ...); streams of different purposes are independent.
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
    """Return a source of uniforms for code that must stay on the device (defenses).

    Args:
        seed: seed of the run.
        purpose: name of the stream.
        round_number: round, from 0.
        device: device of the numbers; each call draws on the host and copies once.

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
    """Return a source that replays uniforms drawn earlier.

    It gives the same numbers as ``draw_source``, without a copy per call.

    Args:
        numbers_U: float64, on the device of the round.

    Returns:
        function of a shape that returns the numbers in order.

    Raises:
        ValueError: from that function, if it is asked for more numbers than are left.

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
            raise ValueError(f"the defense draws {drawn} uniforms, but its num_uniforms allows {len(numbers_U)}")
        return numbers_U[first:drawn].view(shape)

    return draw


_GOLDEN, _FIRST, _SECOND = (each - 2**64 for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""Increment and multipliers of SplitMix64, as signed numbers."""


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift int64 to the right without copies of the sign."""
    shifted: Tensor = (bits >> by) & (2 ** (64 - by) - 1)
    return shifted


def hashed(key: Tensor, number: Tensor | int) -> Tensor:
    """Hash a key and a number to 64 bits, on their device: a draw that needs no state and no host.

    For the numbers 0, 1, 2, ... these are the outputs of SplitMix64 with the key as its seed. ``torch.func.vmap`` goes
    through the function, and integers give the same bits on every device.

    Args:
        key: int64, any shape.
        number: int64 that broadcasts with the key, or one integer of at least 0.

    Returns:
        int64, all 64 bits drawn.

    Example:
        >>> hashed(torch.tensor(0), torch.arange(2)).tolist()
        [-2152535657050944081, 7960286522194355700]

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    offset = number + 1 if isinstance(number, Tensor) else (number + 1) % 2**64
    step = offset * _GOLDEN if isinstance(offset, Tensor) else _signed(offset * _GOLDEN)
    bits = key + step
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _signed(number: int) -> int:
    """Return the int64 with the last 64 bits of an integer."""
    return (number + 2**63) % 2**64 - 2**63


def hashed_uniforms(key: Tensor, *shape: int) -> Tensor:
    """Draw uniforms on the device of a key: position i in row-major order is ``hashed(key, i)``.

    Args:
        key: int64, 0-dim.
        shape: shape of the draw.

    Returns:
        float32 in [0, 1), multiples of 2^-24.

    Example:
        >>> hashed_uniforms(torch.tensor(7), 2, 3).shape
        torch.Size([2, 3])
    """
    numbers = torch.arange(math.prod(shape), device=key.device)
    return (_shifted(hashed(key, numbers), 40) * 2.0**-24).view(shape)


def uniforms_at(key: Tensor, first: int, count: int) -> Tensor:
    """Compute uniforms on the device from their positions in a stream, for amounts too large to draw on the host.

    Any part of the stream can be computed alone, with the same bits on every device.

    Args:
        key: 0-dim float64 in [0, 1), such as from a ``Draw``; it names the stream.
        first: position of the first number.
        count: how many.

    Returns:
        ``(count,)`` float64 in [0, 1) on the device of the key, multiples of 2^-53.

    Example:
        >>> whole = uniforms_at(torch.tensor(0.25, dtype=torch.float64), 0, 5)
        >>> torch.equal(whole[3:], uniforms_at(torch.tensor(0.25, dtype=torch.float64), 3, 2))
        True
    """
    seed = hashed((key * 2**53).to(torch.int64), 0)
    bits = hashed(seed, torch.arange(first, first + count, device=key.device))
    return _shifted(bits, 11).to(torch.float64) * 2.0**-53
