"""Export of a run's global model by parameter name."""

import os
from pathlib import Path

from safetensors.torch import save

from rflbat.errors import UserError
from rflbat.round.setup import model_of
from rflbat.round.start import stored_model
from rflbat.simulation.loop import recorded
from rflbat.storage.atomic import replacing
from rflbat.storage.run_folder import RUN, RunFolder


def export(run: str | Path, file: str | Path) -> Path:
    """Write the global model of a run's latest checkpoint as a safetensors file with one tensor per parameter.

    The file is readable by ``--start`` and by the package safetensors.

    Args:
        run: run folder.
        file: the file to create.

    Returns:
        the file.

    Raises:
        UserError: the folder holds no checkpoint, or the file exists or cannot be written.
    """
    folder, path = Path(run), Path(file)
    if os.path.lexists(path):
        raise UserError(f"{path} exists; choose another file, or remove it")
    described = RunFolder.open(folder).run()
    file_of_run = RunFolder(folder).latest
    if file_of_run is None:
        raise UserError(f"{folder}: the run folder holds no checkpoint yet")
    if not isinstance(described.get("config"), dict):
        raise UserError(f"{folder / RUN}: damaged: it has no configuration")
    # A run of version 0.1 records no layout: its model is built from its settings and data.
    layout = None if "layout" in described else model_of(recorded(described)).layout
    named = {name: value.clone() for name, value in stored_model(folder, file_of_run, layout).items()}
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(save(named, {"format": "pt"}))
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path
