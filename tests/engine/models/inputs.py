"""Random samples of any format, and a check of uniform draws."""

import torch

from rflbat.randomness import generator


def random_samples(shape: tuple[int, ...], words: int, *lead: int, seed: int = 1) -> torch.Tensor:
    """Images of values 0 to 1 in float32, or token ids in int64 where there are words."""
    stream = generator(seed, "samples")
    if words:
        return torch.from_numpy(stream.integers(0, words, (*lead, *shape)))
    return torch.from_numpy(stream.random((*lead, *shape))).to(torch.float32)


def assert_uniform(drawn: torch.Tensor, bound: float) -> None:
    """Within +-bound; mean 0 and variance bound^2/3, each within 4 standard deviations of its estimate."""
    values, count = drawn.double().flatten(), drawn.numel()
    assert values.abs().max() <= bound
    assert abs(values.mean()) < 4 * bound / (3 * count) ** 0.5
    assert abs(values.square().mean() - bound**2 / 3) < 4 * bound**2 * (4 / 45 / count) ** 0.5
