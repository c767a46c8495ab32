"""Registry of models: one file and one row each."""

from collections.abc import Callable

from rflbat.models.base import Model
from rflbat.models.cnn import cnn
from rflbat.models.logistic import logistic
from rflbat.models.lstm import lstm
from rflbat.registry import Registry

Make = Callable[[tuple[int, ...], int, int], Model]
_OURS: dict[str, Make] = {
    "logistic": logistic,
    "cnn": cnn,
    "lstm": lstm,
}
MODELS: Registry[Make] = Registry("model", "rflbat.models", Model, lambda make: make, _OURS)
"""``make(shape of a sample, classes, vocabulary size)``; the vocabulary size is 0 for data that are not texts."""
