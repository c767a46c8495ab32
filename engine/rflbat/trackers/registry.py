"""Registry of trackers: each has one file and one row."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rflbat.arguments import lookup
from rflbat.errors import UserError
from rflbat.trackers.base import Open, Tracking
from rflbat.trackers.mlflow import mlflow
from rflbat.trackers.tensorboard import tensorboard
from rflbat.trackers.wandb import like_wandb


@dataclass(frozen=True)
class Row:
    """One tracker.

    Args:
        title: name for display.
        open: starts a run in the tracker.
    """

    title: str
    open: Open


TRACKERS = {
    "tensorboard": Row("TensorBoard", tensorboard),
    "wandb": Row("Weights & Biases", like_wandb("wandb")),
    "trackio": Row("trackio", like_wandb("trackio")),
    "mlflow": Row("MLflow", mlflow),
}
"""The keys are package names; the package is imported when the run starts."""


def make_tracker(name: str, run: str, folder: Path) -> Tracking:
    """Make the callback of a tracker.

    Args:
        name: a key of ``TRACKERS``.
        run: name of the run.
        folder: the run folder.

    Returns:
        the callback, which is also a context manager that ends the tracker's run.

    Raises:
        UserError: the name is unknown, or its package is not installed.

    Example:
        >>> make_tracker("tensorbord", "first", Path("runs/first"))
        Traceback (most recent call last):
            ...
        rflbat.errors.UserError: unknown tracker 'tensorbord'; did you mean 'tensorboard'?; known: tensorboard, ...
    """
    row = lookup("tracker", TRACKERS, name)
    if find_spec(name) is None:
        raise UserError(
            f"tracker '{name}' needs the package {name}, which is not installed: pip install 'rflbat[track]'"
        )
    return Tracking(row.title, row.open, run, folder)
