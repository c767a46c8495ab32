"""Every data set by name: one file and one row each; and every augmentation of ``data/augment.py``."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rflbat.arguments import calls, check_arguments, lookup
from rflbat.errors import UserError
from rflbat.registry import Registry

if TYPE_CHECKING:
    from rflbat.data.augment import Augmentation
    from rflbat.data.base import Dataset

PARTITIONS = ("iid", "dirichlet", "natural")
TOKENIZERS = ("basic_english", "torchtext")

_ROWS = {
    "digits": ("rflbat.data.digits:load", "pixel"),
    "mnist": ("rflbat.data.mnist:load", "pixel"),
    "fashion-mnist": ("rflbat.data.mnist:load_fashion", "pixel"),
    "femnist": ("rflbat.data.femnist:load", "pixel"),
    "amazon": ("rflbat.data.amazon:load", "sentence"),
    "imdb": ("rflbat.data.imdb:load", "sentence"),
}
"""Name -> function that loads the data set, and the attack that is used by default."""

DATASETS: "Registry[Callable[..., Dataset]]" = Registry(
    "data set", "rflbat.datasets", "rflbat.data.base:Dataset", {name: row[0] for name, row in _ROWS.items()}
)

AUGMENTATIONS: "Registry[Callable[..., Augmentation]]" = Registry(
    "augmentation",
    "rflbat.augmentations",
    "rflbat.data.augment:Augmentation",
    {"crop": "rflbat.data.augment:crop", "flip": "rflbat.data.augment:flip"},
)


def check_augment(text: str | None) -> list[tuple[Callable[..., "Augmentation"], dict[str, Any]]]:
    """Look up the augmentations that a text names, and check their parameters against their signatures.

    Args:
        text: ``NAME,NAME(parameter=value,...)``, in the order in which they are applied; None for none.

    Returns:
        function and parameters of each.

    Raises:
        UserError: an unknown name or parameter, or a value of the wrong type.

    Example:
        >>> [given for _, given in check_augment("crop(padding=2),flip")]
        [{'padding': 2}, {}]
    """
    found = []
    for _, name, arguments in calls(text or "", "augment"):
        make = lookup("augmentation", AUGMENTATIONS, name)
        found.append((make, check_arguments(f"augmentation '{name}'", make, arguments)))
    return found


def make_augmentations(text: str | None, dataset: "Dataset") -> "tuple[Augmentation, ...]":
    """Build the augmentations that a text names, for the images of a data set.

    Args:
        text: as ``check_augment``.
        dataset: the data set; its background fills what a crop leaves.

    Returns:
        the augmentations.

    Raises:
        UserError: as ``check_augment``; the samples are no images, or a value does not fit them.
    """
    named = check_augment(text)
    if named and dataset.words is not None:
        raise UserError(
            f"augment={text!r} changes images, but the samples of data set '{dataset.name}' are texts, that is token "
            "ids; allowed: data sets of images"
        )
    return tuple(make(dataset.shape, dataset.low, **given) for make, given in named)


def default_attack(name: str) -> str:
    """Return the attack that is used against a data set if none is named.

    Args:
        name: name of a data set; ``pixel`` is the default for data sets of other packages.

    Returns:
        name of an attack.

    Example:
        >>> default_attack("amazon")
        'sentence'
    """
    return _ROWS[name][1] if name in _ROWS else "pixel"


def load(name: str, data_dir: Path | None = None, arguments: Iterable[tuple[str, Any]] = ()) -> "Dataset":
    """Load a data set by its name in the registry.

    Args:
        name: a key of ``DATASETS``.
        data_dir: folder of data sets; None uses what the data set carries or can download.
        arguments: (name, value) of parameters of the data set, already checked.

    Returns:
        the data set, on the CPU.

    Raises:
        UserError: the name is unknown, or the files are missing or wrong.

    Example:
        >>> load("digits").classes
        10
        >>> load("fasion-mnist")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        rflbat.errors.UserError: unknown data set 'fasion-mnist'; did you mean 'fashion-mnist'?; known: digits, ...
    """
    return lookup("data set", DATASETS, name)(data_dir, **dict(arguments))
