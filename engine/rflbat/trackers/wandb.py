"""Weights & Biases, and trackio, which has the same functions."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from rflbat.trackers.base import Open, Sink

PROJECT = "rflbat"


def like_wandb(package: str) -> Open:
    """Make the tracker of a package with ``init``, ``log`` and ``finish``.

    W&B reads mode, project and entity from its own environment variables (``WANDB_MODE=offline`` needs no account).

    Args:
        package: "wandb" or "trackio".

    Returns:
        a function that starts a run in the tracker.
    """

    def open_run(name: str, folder: Path, settings: Mapping[str, Any]) -> Sink:
        module: Any = import_module(package)
        more = {"dir": str(folder)} if package == "wandb" else {}
        run = module.init(project=PROJECT, name=name, config=dict(settings), **more)

        def log(values: Mapping[str, float], step: int) -> None:
            module.log(dict(values), step=step)

        def finish(summary: Mapping[str, float] | None) -> None:
            if summary and hasattr(run, "summary"):
                run.summary.update({f"summary/{key}": value for key, value in summary.items()})
            module.finish()

        return Sink(log, finish)

    return open_run
