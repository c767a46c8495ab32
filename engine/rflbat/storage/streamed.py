"""Checkpoints of which some tensors come and go in blocks of rows, since no process has room for them whole.

The file is that of ``rflbat.storage.tensors``, and each of the two reads what the other wrote.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rflbat.errors import UserError
from rflbat.storage.atomic import replacing, to_json
from rflbat.storage.tensors import FORMAT, add_bytes, add_name, read_document
from rflbat.storage.untrusted import open_regular

CODES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""How safetensors writes the types that a state can have."""
BLOCK_BYTES = 16 * 2**20


class Rows(NamedTuple):
    """A tensor that comes in blocks along its first axis."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    blocks: Iterable[Tensor]
    """From the first row to the last, contiguous and on the CPU; walked through once."""


def rows_of(shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[slice]:
    """Cut a tensor into blocks of rows of about 16 MiB.

    Args:
        shape: of the whole tensor; one axis counts as one row.
        dtype: its type.

    Yields:
        rows; at least one a block.

    Example:
        >>> list(rows_of((3, 2**21), torch.float32))
        [slice(0, 2, None), slice(2, 3, None)]
    """
    total = shape[0] if len(shape) > 1 else 1
    row = dtype.itemsize * shape[-1]
    size = max(1, BLOCK_BYTES // max(1, row))
    for first in range(0, total, size):
        yield slice(first, min(first + size, total))


def save(
    path: Path, tensors: Mapping[str, Tensor | Rows], meta: Mapping[str, Any], previous: Path | None = None
) -> None:
    """Write a checkpoint as ``save_tensors`` does, tensor by tensor in the order of their names.

    Args:
        path: the file; its folder must exist.
        tensors: of the types in ``CODES``; blocks of rows are asked for when it is their turn.
        meta: a JSON document.
        previous: where the old checkpoint is kept; by default it is not.

    Raises:
        OSError: the disk is full or the folder not writable; the old file is then untouched.

    Example:
        >>> import tempfile
        >>> from rflbat.storage.tensors import load_tensors
        >>> path = Path(tempfile.mkdtemp()) / "checkpoint.safetensors"
        >>> save(path, {"a": Rows((2, 1), torch.float32, [torch.ones(1, 1), torch.zeros(1, 1)])}, {"round": 7})
        >>> load_tensors(path)[0]["a"].tolist()
        [[1.0], [0.0]]
    """
    parts = {name: each if isinstance(each, Rows) else _one_block(each) for name, each in tensors.items()}
    document = to_json(meta)
    begin, text = _header(parts, document)
    with replacing(path, previous) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        crc = zlib.crc32(document.encode())
        for name in sorted(parts):
            crc = add_name(crc, name, parts[name].dtype, parts[name].shape)
            file.seek(8 + len(text) + begin[name])
            for block in parts[name].blocks:
                crc = add_bytes(crc, block)
                file.write(block.reshape(-1).view(torch.uint8).numpy().data)
        file.seek(8 + text.index(_NO_CRC) + _NO_CRC.index(b"0"))
        file.write(f"{crc:08x}".encode())


_NO_CRC = b'"crc32": "00000000"'
"""What stands in the header until the checksum is known; inside the document every quote has a backslash before it."""


def _one_block(tensor: Tensor) -> Rows:
    plain = tensor.detach().cpu().contiguous()
    return Rows(tuple(plain.shape), plain.dtype, [plain] if plain.numel() else [])


def _header(parts: Mapping[str, Rows], document: str) -> tuple[dict[str, int], bytes]:
    """Lay the tensors out, larger types first so that each begins at a multiple of its size, and write the header."""
    names = {dtype: code for code, dtype in CODES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "meta": document, "crc32": "00000000"}}
    begin, end = {}, 0
    for name in sorted(parts, key=lambda name: (-parts[name].dtype.itemsize, name)):
        shape, dtype, _ = parts[name]
        begin[name], end = end, end + dtype.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [begin[name], end]}
    text = json.dumps(header).encode()
    return begin, text + b" " * (-len(text) % 8)


class OpenCheckpoint:
    """An open checkpoint.

    Args:
        file: as ``safe_open`` gives it.
        shapes: name -> a tensor of that shape and type on the meta device.
        meta: the JSON document.
    """

    def __init__(self, file: Any, shapes: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.shapes = shapes
        self.meta = meta
        self._file = file

    def whole(self, name: str) -> Tensor:
        """Read a tensor."""
        tensor: Tensor = self._file.get_tensor(name).clone()
        return tensor

    def rows(self, name: str, rows: slice) -> Tensor:
        """Read some rows of a tensor, as a matrix; a tensor of one axis is one row."""
        if self.shapes[name].ndim < 2:
            return self.whole(name).view(1, -1)
        block: Tensor = self._file.get_slice(name)[rows]
        return block


def open_checkpoint(path: Path) -> OpenCheckpoint:
    """Open a checkpoint whose contents match their checksum. They are read in blocks.

    Args:
        path: the file.

    Returns:
        what gives its tensors.

    Raises:
        UserError: the file is missing, truncated, damaged, or not a checkpoint of rflbat.
    """
    try:
        open_regular(path).close()  # a pipe would be waited for
        file: Any = safe_open(path, framework="pt", device="cpu")
        metadata: dict[str, str] = file.metadata() or {}
        stored = OpenCheckpoint(file, {name: _shape(file.get_slice(name)) for name in sorted(file.keys())}, {})
        checksum = _checksum(stored, metadata.get("meta", ""))
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a checkpoint, or damaged ({error})") from error
    stored.meta = read_document(path, metadata, checksum)
    return stored


def _shape(part: Any) -> Tensor:
    return torch.empty(part.get_shape(), dtype=CODES[part.get_dtype()], device="meta")


def _checksum(stored: OpenCheckpoint, document: str) -> str:
    crc = zlib.crc32(document.encode())
    for name, like in stored.shapes.items():
        crc = add_name(crc, name, like.dtype, tuple(like.shape))
        if not like.ndim:
            crc = add_bytes(crc, stored.whole(name))
            continue
        for rows in rows_of(tuple(like.shape), like.dtype):
            crc = add_bytes(crc, stored.rows(name, rows))
    return f"{crc:08x}"
