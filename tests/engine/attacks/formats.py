"""Formats of samples that suit each attack, and the sentence trigger once more as lists."""

import math
from collections.abc import Sequence

from rflbat.attacks.registry import ATTACKS
from rflbat.testing.formats import IMAGES, TEXTS, attack_cases

PAPER = "The weather is so good, I want to eat noodles."
DIGITS, FEMNIST = IMAGES[:2]
REVIEWS = TEXTS[0]

SUITED = {name: [samples for samples, _ in attack_cases(name)] for name in ATTACKS}
"""What each attack accepts."""


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
