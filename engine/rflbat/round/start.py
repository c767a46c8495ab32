"""The start of a run from stored parameters: a safetensors file by parameter name, or the run folder of another run.

Axes: D columns of the model.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rflbat.errors import UserError, nearest
from rflbat.models.base import Model
from rflbat.parameters import Layout
from rflbat.ranks import SINGLE, Ranks
from rflbat.storage.run_folder import RunFolder
from rflbat.storage.tensors import open_checkpoint
from rflbat.storage.untrusted import open_regular

PARAMS = "params_D"
"""Name of the global model in a checkpoint."""


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
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_start(path: Path, model: Model, sha256: str | None = None, ranks: Ranks = SINGLE) -> Tensor:
    """Read the parameters with which a run starts.

    Tensors of floating-point and integer types are converted to float32. The file may also hold the frozen parameters
    of the model, as a module's state dict does; they must be those of the model.

    Args:
        path: a safetensors file with one tensor per parameter and carried tensor, by name; or a run folder.
        model: the model.
        sha256: SHA-256 that the file must have; None: any.
        ranks: processes of the run; each reads the start.

    Returns:
        flat parameters ``(D,)`` float32, on the CPU.

    Raises:
        UserError: the file cannot be read or has another SHA-256; a name or shape does not fit the model; a number is
            not finite, or not real; the ranks read different numbers.
    """
    file = start_file(path)
    named = stored_model(path, file, model.layout) if path.is_dir() else _named(file, model.to("cpu"))
    _check_shapes(path, {name: tuple(value.shape) for name, value in named.items()}, model.layout)
    params_D = model.layout.flatten({name: _as_float(f"{path}: {name!r}", value) for name, value in named.items()})
    if not params_D.isfinite().all():
        raise UserError(f"{path}: it holds a NaN or an infinity as float32; a start must be finite")
    if sha256 is not None and (found := digest_of(file)) != sha256:
        raise UserError(
            f"{file} changed since the run was created (SHA-256 {found[:12]}..., recorded {sha256[:12]}...); "
            "start a new run"
        )
    _check_ranks(path, params_D, ranks)
    return params_D.contiguous()


def _check_ranks(path: Path, params_D: Tensor, ranks: Ranks) -> None:
    """Refuse a path under which the ranks find different parameters."""
    if not ranks.is_single:
        number = int.from_bytes(hashlib.sha256(params_D.numpy().tobytes()).digest()[:6], "little")
        largest, negated = ranks.all_max(number, -number)
        if largest != -negated:
            raise UserError(f"start={str(path)!r}: the ranks read different parameters under this path")


def stored_model(folder: Path, file: Path, layout: Layout | None = None) -> dict[str, Tensor]:
    """Read the global model of a run by name, by the layout that its run.json records.

    Args:
        folder: the run folder.
        file: a checkpoint of it.
        layout: layout to assume for a run whose run.json records none; such a run is of version 0.1.

    Returns:
        name -> tensor of the parameters and carried tensors, on the CPU.

    Raises:
        UserError: the folder or the checkpoint is damaged, or its number of parameters differs from the layout's.
    """
    described = RunFolder.open(folder).run()
    shapes = _recorded_shapes(folder, described) or (None if layout is None else {**layout.shapes, **layout.carried})
    stored = open_checkpoint(file)
    if shapes is None or PARAMS not in stored.shapes:
        raise UserError(f"{folder}: it records no model: neither a layout in run.json nor {PARAMS!r} in {file.name}")
    count, wanted = stored.shapes[PARAMS].numel(), sum(math.prod(shape) for shape in shapes.values())
    if count != wanted:
        config = described.get("config")
        name = config.get("model") if isinstance(config, dict) else None
        raise UserError(f"{folder}: its model {name!r} has {count} parameters, but this run's has {wanted}")
    return Layout(shapes).views(stored.whole(PARAMS).reshape(-1))


def layout_record(layout: Layout) -> dict[str, list[int]]:
    """Describe a layout for run.json.

    Args:
        layout: names and shapes of a model.

    Returns:
        name -> shape, in the order of the flat vector, carried tensors last.
    """
    return {name: list(shape) for name, shape in {**layout.shapes, **layout.carried}.items()}


def _recorded_shapes(folder: Path, described: Mapping[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """Read the layout of run.json, which may be damaged; None if there is none."""
    record = described.get("layout")
    if record is None:
        return None
    if not isinstance(record, dict):
        raise UserError(f"{folder}: damaged run.json: layout is no table of names and shapes")
    for name, shape in record.items():
        if not isinstance(shape, list) or not all(type(side) is int and 0 <= side < 2**40 for side in shape):
            raise UserError(f"{folder}: damaged run.json: layout: {name!r} has the shape {str(shape)[:40]}")
    return {name: tuple(shape) for name, shape in record.items()}


def _check_shapes(path: Path, found: Mapping[str, tuple[int, ...]], layout: Layout) -> None:
    """Refuse tensors whose names or shapes are not those of a model."""
    wanted = {**layout.shapes, **layout.carried}
    for name in sorted(wanted.keys() - found.keys()):
        raise UserError(f"{path}: parameter {name!r} is missing{nearest(name, sorted(found))}")
    for name in sorted(found.keys() - wanted.keys()):
        raise UserError(f"{path}: the model has no parameter {name!r}{nearest(name, sorted(wanted))}")
    for name, shape in wanted.items():
        if found[name] != tuple(shape):
            raise UserError(f"{path}: parameter {name!r} has the shape {found[name]}; expected {tuple(shape)}")


def _as_float(what: str, value: Tensor) -> Tensor:
    if value.is_complex() or value.dtype == torch.bool:
        raise UserError(f"{what} is of type {value.dtype}; allowed: floating-point and integer types")
    return value.to(torch.float32)


def _named(file: Path, model: Model) -> dict[str, Tensor]:
    """Read a file's tensors, without the frozen ones."""
    try:
        open_regular(file).close()  # ``safe_open`` would block on a pipe
        with safe_open(file, framework="pt") as stored:
            shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
            constants = model.constants.keys() & shapes.keys()
            # Before any tensor is read: a file of another model may be large.
            trained = {name: shape for name, shape in shapes.items() if name not in constants}
            _check_shapes(file, trained, model.layout)
            for name in sorted(constants):
                # Compared by value: the file may store another type.
                if not torch.equal(stored.get_tensor(name).double(), model.constants[name].double()):
                    raise UserError(
                        f"{file}: {name!r} is frozen in the model, with other values; a run takes frozen parameters "
                        "from the model alone"
                    )
            # Cloned, because safetensors returns memory mapped to the file.
            return {name: stored.get_tensor(name).clone() for name in trained}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: not a readable safetensors file: {error}") from error
