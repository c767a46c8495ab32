"""A text data set for tests: 120 words, and a label that the last word of a text names."""

from pathlib import Path

import torch

from rflbat.data.base import Dataset

WORDS, TOKENS, CLASSES = 120, 16, 3


def small_texts(data_dir: Path | None) -> Dataset:
    """Draw 240 training and 60 test texts."""
    draws = torch.Generator().manual_seed(0)
    texts = torch.randint(2, WORDS, (300, TOKENS), generator=draws, dtype=torch.int32)
    labels = torch.randint(0, CLASSES, (300,), generator=draws)
    texts[:, -1] = 2 + labels.to(torch.int32)
    words = tuple(f"word{number}" for number in range(WORDS))
    return Dataset(
        *("small texts", texts[:240], labels[:240], texts[240:], labels[240:], CLASSES, (TOKENS,)),
        *(0.0, 0.0, 1.0, None, "lstm", "drawn"),
        words=words,
        encode=lambda text: [2 + len(word) % (WORDS - 2) for word in text.split()],
    )
