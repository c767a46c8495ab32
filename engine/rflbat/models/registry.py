"""Every model by name: one file and one row each."""

from collections.abc import Callable

from rflbat.models.base import Model
from rflbat.models.cnn import cnn
from rflbat.models.logistic import logistic
from rflbat.models.lstm import lstm

MODELS: dict[str, Callable[[tuple[int, ...], int, int], Model]] = {
    "logistic": logistic,
    "cnn": cnn,
    "lstm": lstm,
}
"""``make(shape of a sample, classes, words of the vocabulary)``; 0 words for data that are no texts."""
