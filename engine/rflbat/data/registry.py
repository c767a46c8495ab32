"""Registry of the data sets by name: how to load each, what it is and where to get it."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rflbat.arguments import lookup
from rflbat.data import amazon, digits, femnist, imdb, mnist
from rflbat.data.base import Dataset
from rflbat.data.tables import Origin
from rflbat.registry import Registry


@dataclass(frozen=True)
class Row:
    """One data set of the registry.

    Attributes:
        load: function that loads it, given the data folder or None; its keyword-only parameters are options of the
            user.
        summary: description on one line.
        where: where its files are searched and where to get them, on one line.
        attack: name of the default attack.
    """

    load: Callable[..., Dataset]
    summary: str
    where: str
    attack: str = "pixel"


def _where(family: mnist.Family) -> str:
    folders = ", ".join(f"DIR/{folder}" for folder in family.folders)
    return (
        f"four IDX files (plain or .gz) in DIR, {folders}, from {family.origin}; "
        "without DIR torchvision downloads them to ~/.cache/rflbat"
    )


def _below(origin: Origin) -> str:
    return ", ".join(f"DIR/{folder}" for folder in origin.folders)


def _adopt(load: Callable[..., Dataset]) -> Row:
    """Build the row of a third-party data set; its summary is the first line of the loader's docstring."""
    about = (inspect.getdoc(load) or "a data set of another package").partition("\n")[0]
    return Row(load=load, summary=about, where=f"as {load.__module__} says")


_OURS: dict[str, Row] = {
    "digits": Row(
        load=digits.load,
        summary="1,797 handwritten digits enlarged to 28x28, 10 classes",
        where="inside scikit-learn: no files, no network",
    ),
    "mnist": Row(
        load=mnist.load,
        summary="70,000 handwritten digits 28x28, 10 classes; 539 training writers where QMNIST's labels are at hand",
        where=f"{_where(mnist.MNIST)}; writers: qmnist-train-labels-idx2-int.gz in DIR/mnist_writers",
    ),
    "fashion-mnist": Row(
        load=mnist.load_fashion,
        summary="70,000 articles of clothing 28x28, 10 classes",
        where=_where(mnist.FASHION_MNIST),
    ),
    "femnist": Row(
        load=femnist.load,
        summary="handwritten characters 28x28, 62 classes, each with its writer (LEAF: 3,500 writers in all)",
        where=f"in DIR, DIR/femnist or DIR/femnist_leaf: {femnist.WANTED}; from {femnist.ORIGIN}",
    ),
    "amazon": Row(
        load=amazon.load,
        summary="food reviews as texts of 100 tokens, 5 classes (scores), equally many of each; writers by UserId",
        where=(
            f"any number of {amazon.TABLES} (plain or .gz) in DIR, {_below(amazon.ORIGIN)}, "
            f"from {amazon.ORIGIN.address}; or texts.txt and labels.txt, one text and one score 1..5 a line; the "
            "natural partition needs a UserId in every table that is read; needs rflbat[text]"
        ),
        attack="sentence",
    ),
    "imdb": Row(
        load=imdb.load,
        summary="50,000 film reviews as texts of 200 tokens, 2 classes (negative, positive); writers are the films",
        where=(
            f"{imdb.TABLE} (plain or .gz; columns split, label, title, text) or the folder {imdb.ARCHIVE} in DIR, "
            f"{_below(imdb.ORIGIN)}, from {imdb.ORIGIN.address}; needs rflbat[text]"
        ),
        attack="sentence",
    ),
}
DATASETS: Registry[Row] = Registry("data set", "rflbat.datasets", Dataset, _adopt, _OURS)


def load(name: str, data_dir: Path | None = None, arguments: Iterable[tuple[str, Any]] = ()) -> Dataset:
    """Load a data set by its name in the registry.

    Args:
        name: a key of ``DATASETS``.
        data_dir: folder of data sets; None uses embedded data or a download, if the data set has either.
        arguments: (name, value) pairs of the data set's parameters, already checked.

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
    return lookup("data set", DATASETS, name).load(data_dir, **dict(arguments))
