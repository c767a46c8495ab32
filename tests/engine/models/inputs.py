"""Input of each model: the format of its samples, and random samples."""

import torch

from rflbat.models.base import Model
from rflbat.models.registry import MODELS
from rflbat.randomness import generator

CLASSES = 7
SHAPES = {"logistic": (1, 28, 28), "cnn": (1, 28, 28), "lstm": (11,)}
WORDS = {"logistic": 0, "cnn": 0, "lstm": 63}


def random_samples(shape: tuple[int, ...], words: int, *lead: int, seed: int = 1) -> torch.Tensor:
    """Images of values 0 to 1 in float32, or token ids in int64 where there are words."""
    stream = generator(seed, "samples")
    if words:
        return torch.from_numpy(stream.integers(0, words, (*lead, *shape)))
    return torch.from_numpy(stream.random((*lead, *shape))).to(torch.float32)


def make(name: str) -> tuple[Model, torch.Tensor]:
    """Make a model of the registry and its start vector."""
    model = MODELS[name](SHAPES[name], CLASSES, WORDS[name])
    return model, model.init(generator(0, "model"))


def samples_of(name: str, *lead: int) -> torch.Tensor:
    return random_samples(SHAPES[name], WORDS[name], *lead)


def assert_uniform(drawn: torch.Tensor, bound: float) -> None:
    """Within +-bound; mean 0 and variance bound^2/3, each within 4 standard deviations of its estimate."""
    values, count = drawn.double().flatten(), drawn.numel()
    assert values.abs().max() <= bound
    assert abs(values.mean()) < 4 * bound / (3 * count) ** 0.5
    assert abs(values.square().mean() - bound**2 / 3) < 4 * bound**2 * (4 / 45 / count) ** 0.5
