"""TensorBoard: event files in the subfolder ``tensorboard`` of the run folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rflbat.trackers.base import Sink


def tensorboard(name: str, folder: Path, settings: Mapping[str, Any]) -> Sink:
    """Write event files for TensorBoard into the run folder; show them with ``tensorboard --logdir DIR``.

    Args:
        name: unused, because the run folder already names the run.
        folder: the run folder.
        settings: the resolved settings, written as text.

    Returns:
        the sink.
    """
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(folder / "tensorboard"))
    writer.add_text("settings", f"```json\n{json.dumps(dict(settings), indent=2)}\n```")

    def log(values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, step)
        writer.flush()

    def finish(summary: Mapping[str, float] | None) -> None:
        for key, value in (summary or {}).items():
            writer.add_scalar(f"summary/{key}", value)
        writer.close()

    return Sink(log, finish)
