"""Every model by name: one file and one row each."""

from collections.abc import Callable

from rflbat.models.base import Model
from rflbat.models.logistic import logistic

MODELS: dict[str, Callable[[tuple[int, ...], int], Model]] = {
    "logistic": logistic,
}
