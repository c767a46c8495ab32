"""Checkpoints: every tensor of a run's state, and a JSON document, in ONE safetensors file that is whole or absent."""

import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rflbat.errors import UserError
from rflbat.storage.atomic import replacing, to_json
from rflbat.storage.untrusted import open_regular

FORMAT = "rflbat checkpoint 1"


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], previous: Path | None = None
) -> None:
    """Write a checkpoint beside the old one, then put it in its place.

    The file is plain safetensors: other tools can read the tensors. A checksum of the document and of every name,
    dtype, shape and byte goes into the metadata, so that ``load_tensors`` notices a flipped bit.

    Args:
        path: the file; its folder must exist.
        tensors: any dtype, shape (0-dim and empty too), layout and device; views of one buffer are fine.
        meta: a JSON document: ``round`` (the next round to run), ``seconds`` (elapsed), ``config``. NaN becomes null.
        previous: where the old checkpoint is kept; by default it is not.

    Raises:
        OSError: the disk is full or the folder not writable; the old file is then untouched.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "checkpoint.safetensors"
        >>> save_tensors(path, {"params_D": torch.arange(3.0)}, {"round": 7, "seconds": 1.5, "config": {}})
        >>> tensors, meta = load_tensors(path)
        >>> tensors["params_D"].tolist(), meta["round"]
        ([0.0, 1.0, 2.0], 7)
    """
    plain = _separate(tensors)
    document = to_json(meta)
    metadata = {"format": FORMAT, "meta": document, "crc32": _checksum(plain, document)}
    with replacing(path, previous) as temporary:
        try:
            save_file(plain, temporary, metadata)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint back, bit for bit.

    Args:
        path: a file that ``save_tensors`` wrote.

    Returns:
        the tensors, on the CPU and independent of the file, and the JSON document.

    Raises:
        UserError: the file is missing, truncated, damaged, or not a checkpoint of rflbat.
    """
    try:
        open_regular(path).close()  # a pipe would be waited for
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata: dict[str, str] = file.metadata() or {}
            # Cloned, since what safetensors hands out is still mapped to a file that the next checkpoint replaces.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not iterable itself)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a checkpoint, or damaged ({error})") from error
    return tensors, read_document(path, metadata, _checksum(tensors, metadata.get("meta", "")))


def read_document(path: Path, metadata: Mapping[str, str], checksum: str) -> dict[str, Any]:
    """Read what is stored beside the tensors.

    Args:
        path: the file, for messages.
        metadata: as safetensors gives it.
        checksum: of what the file holds.

    Returns:
        the JSON document.

    Raises:
        UserError: the file is damaged, or not a checkpoint of rflbat.
    """
    if (found := metadata.get("format", "")) != FORMAT:
        name = FORMAT.rpartition(" ")[0]
        what = "a checkpoint of another version of rflbat" if found.startswith(name) else "not a checkpoint of rflbat"
        raise UserError(f"{path}: {what}: format {found[:40]!r}; allowed: {FORMAT!r}")
    if metadata.get("crc32") != checksum:
        raise UserError(f"{path}: damaged checkpoint: its contents do not match their checksum")
    try:
        meta = json.loads(metadata.get("meta", ""))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged checkpoint: its document is not JSON ({error})") from error
    if not isinstance(meta, dict):
        raise UserError(f"{path}: damaged checkpoint: its document is a JSON {type(meta).__name__}, not an object")
    return meta


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors of which no two share memory, which safetensors refuses; copies only where it must."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        if flat.untyped_storage().data_ptr() in seen:
            flat = flat.clone()
        seen.add(flat.untyped_storage().data_ptr())
        plain[name] = flat
    return plain


def _checksum(tensors: Mapping[str, Tensor], document: str) -> str:
    crc = zlib.crc32(document.encode())
    for name in sorted(tensors):
        crc = add_name(crc, name, tensors[name].dtype, tuple(tensors[name].shape))
        crc = add_bytes(crc, tensors[name])
    return f"{crc:08x}"


def add_name(crc: int, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Go on with a checksum over what is said of a tensor.

    Args:
        crc: so far.
        name: the tensor's.
        dtype: its type.
        shape: its shape.

    Returns:
        the checksum.
    """
    return zlib.crc32(f"{name} {dtype} {shape}".encode(), crc)


def add_bytes(crc: int, part: Tensor) -> int:
    """Go on with a checksum over the contents of a tensor, or of some of its rows.

    Args:
        crc: so far.
        part: on the CPU.

    Returns:
        the checksum.
    """
    if not part.numel():
        return crc
    return zlib.crc32(part.reshape(-1).view(torch.uint8).numpy().data, crc)
