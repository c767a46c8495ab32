"""Every model by name: one file and one row each."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rflbat.arguments import check_arguments, lookup
from rflbat.registry import Registry

if TYPE_CHECKING:
    from rflbat.models.base import Model

MODELS: "Registry[Callable[..., Model]]" = Registry(
    "model",
    "rflbat.models",
    "rflbat.models.base:Model",
    {
        "logistic": "rflbat.models.logistic:logistic",
        "mlp": "rflbat.models.mlp:mlp",
        "cnn": "rflbat.models.cnn:cnn",
        "lstm": "rflbat.models.lstm:lstm",
        "resnet": "rflbat.models.resnet:resnet",
        "transformer": "rflbat.models.transformer:transformer",
        "lora": "rflbat.models.lora:lora",
    },
)


def make_model(
    name: str, shape: tuple[int, ...], classes: int, words: int = 0, arguments: Mapping[str, object] | None = None
) -> "Model":
    """Build a model by name.

    Args:
        name: a key of ``MODELS``.
        shape: shape of a sample.
        classes: number of classes.
        words: size of the vocabulary of texts; 0 for other data.
        arguments: its parameters, text allowed.

    Returns:
        the model.

    Raises:
        UserError: an unknown name or parameter, or a value that does not fit.
    """
    make = lookup("model", MODELS, name)
    return make(shape, classes, words, **check_arguments(f"model '{name}'", make, arguments or {}))
