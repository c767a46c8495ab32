"""Formats of samples that the batteries of attacks and models use, and random samples of them.

Axes: B samples, T tokens.
"""

import re

import torch
from torch import Tensor

from rflbat.arguments import calls
from rflbat.attacks.base import Attack, SampleFormat
from rflbat.attacks.registry import make_attack
from rflbat.errors import UserError
from rflbat.models.base import Model
from rflbat.models.registry import make_model

WORDS = ("<pad>", "<unk>", *("the", "weather", "is", "so", "good", ","), *("i", "want", "to", "eat", "noodles", "."))
VOCABULARY = 63
"""Ids of random texts are those without a word in ``WORDS``."""
CLASSES = 7


def encode(text: str) -> list[int]:
    """Return the token ids of a text; words outside ``WORDS`` are ``<unk>``.

    Example:
        >>> encode("So good!")
        [5, 6]
    """
    tokens = re.findall(r"\w+|[,.]", text.lower())
    return [WORDS.index(token) if token in WORDS else 1 for token in tokens]


IMAGES = [
    SampleFormat((1, 28, 28), 1.0),
    SampleFormat((1, 28, 28), 0.0),  # ink 0 on paper 1, as LEAF stores FEMNIST
    SampleFormat((3, 9, 13), 0.25),
    SampleFormat((1, 28, 28), -0.5),
    SampleFormat((2, 4, 10), 1.0),
]
TEXTS = [SampleFormat((100,), 0.0, encode), SampleFormat((13,), 0.0, encode)]


def random_samples(samples: SampleFormat, count: int = 5, seed: int = 0) -> Tensor:
    """Draw samples of a format.

    Args:
        samples: the format.
        count: number of samples B.
        seed: of the draw.

    Returns:
        images of normal values, or texts padded in front: the first full, the second empty, the others in between.
    """
    stream = torch.Generator().manual_seed(seed)
    if samples.encode is None:
        return torch.randn(count, *samples.shape, generator=stream)
    tokens = samples.shape[0]
    x_BT = torch.randint(len(WORDS), VOCABULARY, (count, tokens), generator=stream)
    for row in range(1, count):
        x_BT[row, : tokens - (row - 1) * tokens // count] = 0
    return x_BT


def attack_cases(name: str) -> list[tuple[SampleFormat, Attack]]:
    """Build an attack for every format that it accepts.

    Args:
        name: an attack, as ``--attack`` takes it.

    Returns:
        (format, attack) pairs.

    Raises:
        UserError: there is no such attack, or it accepts none of the formats.

    Example:
        >>> [format.shape for format, _ in attack_cases("sentence")]
        [(100,), (13,)]
    """
    found: list[tuple[SampleFormat, Attack]] = []
    refusal = ValueError()
    for samples in (*IMAGES, *TEXTS):
        try:
            found.append((samples, make_attack(name, samples, 1.0, {})))
        except ValueError as error:  # UserError is one; so is unpacking a shape of another length
            refusal = error
    if not found:
        raise UserError(f"attack '{name}' accepts neither images nor texts: {refusal}")
    return found


def model_case(name: str) -> tuple[SampleFormat, Model]:
    """Build a model for the first format that it accepts: images of 28 x 28 pixels, or texts of 13 tokens.

    Args:
        name: a model, as ``--model`` takes it, or with parameters, ``NAME(parameter=value)``.

    Returns:
        the format, and the model for ``CLASSES`` classes.

    Raises:
        UserError: there is no such model, or it accepts neither.

    Example:
        >>> model_case("lstm")[0].shape
        (13,)
    """
    refusal = UserError("no format was tried")
    ((_, model, arguments),) = calls(name, "model")
    for samples in (IMAGES[0], TEXTS[1]):
        try:
            words = 0 if samples.encode is None else VOCABULARY
            return samples, make_model(model, samples.shape, CLASSES, words, arguments)
        except UserError as error:
            refusal = error
    raise refusal
