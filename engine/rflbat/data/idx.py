"""Reader for IDX, the format of MNIST and its relatives: a magic number, big-endian sizes, then the raw values.

Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits, "File formats".
"""

import math
import os
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from rflbat.storage.untrusted import unpacked

_MAGIC: dict[int, tuple[np.dtype[Any], int]] = {  # magic number -> type and number of axes
    0x0801: (np.dtype(">u1"), 1),
    0x0803: (np.dtype(">u1"), 3),
    0x0C02: (np.dtype(">i4"), 2),
}
_CHUNK = 2**20
_LARGEST = 2**32  # bytes; the largest relative of MNIST has 0.6 GB, so a larger size means damage or a bomb


def read_idx(path: Path, hint: str = "", within: Path | None = None) -> npt.NDArray[Any]:
    """Read one IDX file, plain or gzip.

    The file is not trusted: the sizes in its header are compared with its actual length before memory is allocated,
    and of a compressed file at most one byte more than the header declares is unpacked.

    Args:
        path: the file.
        hint: end of every error message: where to get a valid file.
        within: folder of data sets; a link inside it that leads out is refused.

    Returns:
        uint8 (n,) for magic 0x0801 (labels), uint8 (n, rows, columns) for 0x0803 (images),
        int32 (n, columns) in the machine's byte order for 0x0C02 (QMNIST's extended labels). Never empty; writable.

    Raises:
        UserError: the file cannot be read, is not an IDX file, is damaged, or is longer or shorter than it declares.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "labels"
        >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]))
        >>> read_idx(path).tolist()
        [5, 0, 4]
    """
    with unpacked(path, _LARGEST + 16, hint, within) as stream:
        # A plain file is seekable, so its length is known in advance.
        return _parse(stream, os.fstat(stream.fileno()).st_size if stream.seekable() else None)


def _parse(stream: IO[bytes], file_size: int | None) -> npt.NDArray[Any]:
    """Read header and values; ``file_size`` in bytes if known in advance (not for gzip)."""
    start = stream.read(4)
    if len(start) < 4 or (magic := int.from_bytes(start, "big")) not in _MAGIC:
        raise ValueError(
            f"not a supported IDX file: starts with 0x{start.hex()}, "
            f"expected {', '.join(f'0x{known:08x}' for known in _MAGIC)}"
        )
    dtype, axes = _MAGIC[magic]
    sizes = stream.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise ValueError(f"ends inside its header, which has {4 + 4 * axes} bytes")
    shape = struct.unpack(f">{axes}I", sizes)
    expected = math.prod(shape) * dtype.itemsize
    declared = f"its header declares {' x '.join(map(str, shape))} values ({expected} bytes)"
    if expected == 0 or expected > _LARGEST:
        raise ValueError(f"{declared}; allowed: 1 to {_LARGEST} bytes")
    if file_size is not None and file_size != 4 + 4 * axes + expected:
        raise ValueError(f"{declared}, but {file_size - 4 - 4 * axes} bytes follow it")
    values = _read_up_to(stream, expected + 1)
    if len(values) != expected:
        follow = f"only {len(values)}" if len(values) < expected else "more"
        raise ValueError(f"{declared}, but {follow} bytes follow it")
    return np.frombuffer(values, dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape)


def _read_up_to(stream: IO[bytes], limit: int) -> bytearray:
    """Read at most ``limit`` bytes in chunks; ``stream.read(limit)`` would allocate what a header merely claims."""
    values = bytearray()
    while len(values) < limit and (piece := stream.read(min(_CHUNK, limit - len(values)))):
        values += piece
    return values
