"""Checkpoints: tensors and a JSON document in one safetensors file, replaced atomically and verified by a checksum.

Tensors may be written and read in blocks of rows, so that no process needs memory for a whole one.
"""

import json
import math
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
from rflbat.storage.untrusted import open_regular

FORMAT = "rflbat checkpoint 1"
CODES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Dtypes by their safetensors names."""
BLOCK_BYTES = 16 * 2**20


class Rows(NamedTuple):
    """A tensor given as blocks along its first axis."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    blocks: Iterable[Tensor]
    """The blocks from the first row to the last, on the CPU; iterated over once."""


def rows_of(shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[slice]:
    """Divide a tensor into blocks of rows of about 16 MiB.

    Args:
        shape: shape of the whole tensor; with fewer than two axes it is a single row.
        dtype: its dtype.

    Yields:
        slices of at least one row.

    Example:
        >>> list(rows_of((3, 2**21), torch.float32))
        [slice(0, 2, None), slice(2, 3, None)]
    """
    total = shape[0] if len(shape) > 1 else 1
    row = dtype.itemsize * math.prod(shape[1:])
    size = max(1, BLOCK_BYTES // max(1, row))
    for first in range(0, total, size):
        yield slice(first, min(first + size, total))


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor | Rows], meta: Mapping[str, Any], previous: Path | None = None
) -> None:
    """Write a checkpoint next to the old one, then rename it to ``path``.

    The file is plain safetensors, so other tools can read the tensors. Its metadata hold a checksum over the document
    and over the name, dtype, shape and contents of every tensor. Tensors are written in the order of their names, one
    at a time.

    Args:
        path: the file; its folder must exist.
        tensors: tensors of a dtype in ``CODES``, of any shape (0-dim and empty included), layout and device; views of
            one buffer are allowed. The blocks of ``Rows`` are requested when they are written.
        meta: a JSON document: ``round`` (the next round to run), ``seconds`` (elapsed), ``config``. NaN becomes null.
        previous: path under which the old checkpoint is kept; None does not keep it.

    Raises:
        OSError: the disk is full or the folder not writable; the old file is unchanged.
        UserError: a tensor has a dtype that cannot be stored.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "checkpoint.safetensors"
        >>> rows = Rows((2, 1), torch.float32, [torch.ones(1, 1), torch.zeros(1, 1)])
        >>> save_tensors(path, {"params_D": torch.arange(3.0), "seen_N1": rows}, {"round": 7})
        >>> tensors, meta = load_tensors(path)
        >>> tensors["params_D"].tolist(), tensors["seen_N1"].tolist(), meta["round"]
        ([0.0, 1.0, 2.0], [[1.0], [0.0]], 7)
    """
    entries, document = _entries(tensors), to_json(meta)
    # Every checksum has eight digits, so the length of the header is known before the checksum is.
    start = len(_header(entries, document, "00000000"))
    try:
        with replacing(path, previous) as temporary, open(temporary, "wb") as file:
            crc = zlib.crc32(document.encode())
            for name in sorted(tensors):
                crc = _add_name(crc, name, tensors[name])
                file.seek(start + entries[name]["data_offsets"][0])
                for block in _blocks(tensors[name]):
                    content = _bytes(block)
                    crc = zlib.crc32(content, crc)
                    file.write(content)
            file.seek(0)
            file.write(_header(entries, document, f"{crc:08x}"))
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not name its file
        raise


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a whole checkpoint back, bit for bit.

    Args:
        path: a file written by ``save_tensors``.

    Returns:
        the tensors, on the CPU and independent of the file, and the JSON document.

    Raises:
        UserError: the file is missing, truncated, damaged, or not a checkpoint of rflbat.
    """
    stored = open_checkpoint(path)
    return {name: stored.whole(name) for name in stored.shapes}, stored.meta


class OpenCheckpoint:
    """An open checkpoint, whose tensors are read on demand.

    Args:
        file: an open ``safe_open``.

    Attributes:
        shapes: name -> a tensor of the stored shape and dtype on the meta device, in the order of the names.
        meta: the JSON document.
    """

    def __init__(self, file: Any) -> None:
        parts = {name: file.get_slice(name) for name in sorted(file.keys())}
        self.shapes = {
            name: torch.empty(part.get_shape(), dtype=CODES[part.get_dtype()], device="meta")
            for name, part in parts.items()
        }
        self.meta: dict[str, Any] = {}
        self._file = file

    def whole(self, name: str) -> Tensor:
        """Read a tensor."""
        # Cloned, because safetensors returns memory mapped to the file, which the next checkpoint replaces.
        tensor: Tensor = self._file.get_tensor(name).clone()
        return tensor

    def rows(self, name: str, rows: slice) -> Tensor:
        """Read some rows of a tensor; one with fewer than two axes is a single row."""
        if self.shapes[name].ndim < 2:
            return self.whole(name).view(1, -1)
        block: Tensor = self._file.get_slice(name)[rows]
        return block


def open_checkpoint(path: Path) -> OpenCheckpoint:
    """Open a checkpoint and verify its checksum, reading the file in blocks.

    Args:
        path: a file written by ``save_tensors``.

    Returns:
        the open checkpoint.

    Raises:
        UserError: the file is missing, truncated, damaged, or not a checkpoint of rflbat.
    """
    try:
        open_regular(path).close()  # ``safe_open`` would block on a pipe
        file: Any = safe_open(path, framework="pt", device="cpu")
        metadata: dict[str, str] = file.metadata() or {}
        stored = OpenCheckpoint(file)
        checksum = _checksum(stored, metadata.get("meta", ""))
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a checkpoint, or damaged ({error})") from error
    if (found := metadata.get("format", "")) != FORMAT:
        name = FORMAT.rpartition(" ")[0]
        what = "a checkpoint of another version of rflbat" if found.startswith(name) else "not a checkpoint of rflbat"
        raise UserError(f"{path}: {what}: format {found[:40]!r}; allowed: {FORMAT!r}")
    if metadata.get("crc32") != checksum:
        raise UserError(f"{path}: damaged checkpoint: its contents do not match their checksum")
    try:
        document = json.loads(metadata.get("meta", ""))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged checkpoint: its document is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: damaged checkpoint: its document is a JSON {type(document).__name__}, not an object")
    stored.meta = document
    return stored


def _entries(tensors: Mapping[str, Tensor | Rows]) -> dict[str, Any]:
    """Lay the tensors out, larger dtypes first, so that each starts at a multiple of its item size."""
    codes = {dtype: code for code, dtype in CODES.items()}
    entries: dict[str, Any] = {}
    end = 0
    for name, each in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        if each.dtype not in codes:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in codes)
            raise UserError(f"tensor {name!r} has dtype {each.dtype}, which cannot be stored; allowed: {allowed}")
        begin, end = end, end + each.dtype.itemsize * math.prod(each.shape)
        entries[name] = {"dtype": codes[each.dtype], "shape": list(each.shape), "data_offsets": [begin, end]}
    return entries


def _header(entries: Mapping[str, Any], document: str, checksum: str) -> bytes:
    metadata = {"format": FORMAT, "meta": document, "crc32": checksum}
    text = json.dumps({"__metadata__": metadata, **entries}).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _blocks(each: Tensor | Rows) -> Iterable[Tensor]:
    return each.blocks if isinstance(each, Rows) else [each.detach().resolve_conj().resolve_neg().cpu()]


def _bytes(block: Tensor) -> memoryview:
    return block.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _add_name(crc: int, name: str, like: Tensor | Rows) -> int:
    return zlib.crc32(f"{name} {like.dtype} {tuple(like.shape)}".encode(), crc)


def _checksum(stored: OpenCheckpoint, document: str) -> str:
    crc = zlib.crc32(document.encode())
    for name, like in stored.shapes.items():
        crc = _add_name(crc, name, like)
        for rows in rows_of(tuple(like.shape), like.dtype):
            crc = zlib.crc32(_bytes(stored.rows(name, rows)), crc)
    return f"{crc:08x}"
