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


_STEP, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
"""The three constants of SplitMix64 as signed numbers."""


def _mixed(state: Tensor) -> Tensor:
    """Scramble 64-bit numbers. Shifts are logical and products wrap around."""
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        state = (state ^ ((state >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return state ^ ((state >> 31) & ((1 << 33) - 1))


def hashed_uniforms(key: Tensor, first: int, count: int) -> Tensor:
    """Compute uniforms on the device from their positions in a stream, for amounts too large to draw on the host.

    Number i is a hash of the key and of i, so any part of the stream can be computed alone, with the same bits on every
    device.

    Args:
        key: 0-dim float64 in [0, 1), such as from a ``Draw``; it names the stream.
        first: position of the first number.
        count: how many.

    Returns:
        ``(count,)`` float64 in [0, 1) on the device of the key.

    Example:
        >>> whole = hashed_uniforms(torch.tensor(0.25, dtype=torch.float64), 0, 5)
        >>> torch.equal(whole[3:], hashed_uniforms(torch.tensor(0.25, dtype=torch.float64), 3, 2))
        True

    Source: Steele, Lea and Flood 2014 (SplitMix64).
    """
    start = _mixed((key * 2**53).to(torch.int64) + _STEP)
    position = torch.arange(first + 1, first + count + 1, device=key.device)
    return ((_mixed(start + position * _STEP) >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53
