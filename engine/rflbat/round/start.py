"""The start of a run from stored parameters: a safetensors file by parameter name, or the run folder of another run.

Axes: D columns of the model.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rflbat.errors import UserError, nearest
from rflbat.parameters import Layout
from rflbat.storage.run_folder import RunFolder
from rflbat.storage.tensors import load_tensors


def start_file(path: Path) -> Path:
    """Return the file that a start names.

    Args:
        path: a safetensors file, or a run folder.

    Returns:
        the file; of a run folder its latest checkpoint.

    Raises:
        UserError: there is no such file, or the folder holds no checkpoint.
    """
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"start={str(path)!r}: there is no such file or run folder")
        return path
    latest = RunFolder.open(path).latest
    if latest is None:
        raise UserError(f"start={str(path)!r}: the run folder holds no checkpoint yet")
    return latest


def digest_of(path: Path) -> str:
    """Compute the SHA-256 of a file.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_start(path: Path, layout: Layout) -> Tensor:
    """Read the parameters with which a run starts.

    Args:
        path: a safetensors file with one tensor per parameter and carried tensor, by name; or a run folder.
        layout: names and shapes of the model.

    Returns:
        flat parameters ``(D,)`` float32, on the CPU.

    Raises:
        UserError: the file cannot be read, a name or shape does not fit the model, or a number is not finite.
    """
    file = start_file(path)
    params_D = _of_run(path, file, layout) if path.is_dir() else layout.flatten(_named(file, layout))
    if not params_D.isfinite().all():
        raise UserError(f"{file}: it holds a NaN or an infinity; a start must be finite")
    return params_D.contiguous()


def _of_run(folder: Path, file: Path, layout: Layout) -> Tensor:
    """Read the global model of a checkpoint, whose columns are in the order of the layout."""
    params_D = load_tensors(file)[0].get("params_D", torch.empty(0))
    if params_D.shape != (layout.size,):
        model = RunFolder.open(folder).run().get("config", {}).get("model")
        raise UserError(
            f"{folder}: its model {model!r} has {params_D.numel()} parameters, but this run's has {layout.size}"
        )
    return params_D.to(torch.float32)


def _named(file: Path, layout: Layout) -> Mapping[str, Tensor]:
    wanted = {**layout.shapes, **layout.carried}
    try:
        with safe_open(file, framework="pt") as stored:
            names = set(stored.keys())
            for name in sorted(wanted.keys() - names):
                raise UserError(f"{file}: parameter {name!r} is missing{nearest(name, sorted(names))}")
            for name in sorted(names - wanted.keys()):
                raise UserError(f"{file}: the model has no parameter {name!r}{nearest(name, sorted(wanted))}")
            for name, shape in wanted.items():
                found = tuple(stored.get_slice(name).get_shape())
                if found != tuple(shape):
                    raise UserError(f"{file}: parameter {name!r} has the shape {found}; expected {tuple(shape)}")
            return {name: stored.get_tensor(name).to(torch.float32) for name in wanted}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: not a readable safetensors file: {error}") from error
