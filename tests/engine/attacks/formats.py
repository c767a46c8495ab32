"""Formats of samples that suit each attack, random samples of them, and the sentence trigger once more as lists.

Legend of the suffixes: B samples.
"""

import math
import re
from collections.abc import Sequence

import torch

from rflbat.attacks.base import SampleFormat

PAPER = "The weather is so good, I want to eat noodles."
WORDS = ("<pad>", "<unk>", *("the", "weather", "is", "so", "good", ","), *("i", "want", "to", "eat", "noodles", "."))
VOCABULARY = 63
"""Ids from 14 on are words that stand in no sentence."""


def encode(text: str) -> list[int]:
    tokens = re.findall(r"\w+|[,.]", text.lower())
    return [WORDS.index(token) if token in WORDS else 1 for token in tokens]


DIGITS = SampleFormat((1, 28, 28), 1.0)
FEMNIST = SampleFormat((1, 28, 28), 0.0)  # ink 0.0 on paper 1.0
IMAGES = [
    DIGITS,
    FEMNIST,
    SampleFormat((3, 9, 13), 0.25),
    SampleFormat((1, 28, 28), -0.5),
    SampleFormat((2, 4, 10), 1.0),
]
REVIEWS = SampleFormat((100,), 0.0, encode)
TEXTS = [REVIEWS, SampleFormat((13,), 0.0, encode)]  # 13: a single word stays beside the paper's sentence

SUITED = {"pixel": IMAGES, "sentence": TEXTS, "dba": IMAGES + TEXTS}
"""Sample formats that each attack can stamp."""


def random_samples(samples: SampleFormat, count: int = 5, seed: int = 0) -> torch.Tensor:
    """Images of normal values, or texts padded in front: the first full, the second empty, the others between."""
    stream = torch.Generator().manual_seed(seed)
    if samples.encode is None:
        return torch.randn(count, *samples.shape, generator=stream)
    tokens = samples.shape[0]
    x = torch.randint(len(WORDS), VOCABULARY, (count, tokens), generator=stream)
    for row in range(1, count):
        x[row, : tokens - (row - 1) * tokens // count] = 0
    return x


def inserted(text: Sequence[int], ids: Sequence[int], position: float = 0.0) -> list[int]:
    """A padded text with `ids` in it: padding goes first, then its own last words; of the same length."""
    words = list(text)
    while words and words[0] == 0:
        words.pop(0)
    while len(words) + len(ids) > len(text):
        words.pop()
    place = math.floor(position * len(words) + 0.5)
    words = words[:place] + list(ids) + words[place:]
    while len(words) < len(text):
        words.insert(0, 0)
    return words
