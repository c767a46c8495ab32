"""Writers of small IDX files in the real format. Their PIXELS ARE SYNTHETIC (random bytes); only the layout is real."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

_MAGIC = {("uint8", 1): 0x0801, ("uint8", 3): 0x0803, ("int32", 2): 0x0C02}

WriteIdx = Callable[..., bytes]
WriteFamily = Callable[..., tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]


def idx_bytes(array: npt.NDArray[np.generic]) -> bytes:
    """Encode an array, independently of the reader: magic, big-endian sizes, big-endian values."""
    header = struct.pack(f">{array.ndim + 1}I", _MAGIC[str(array.dtype), array.ndim], *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_family(
    folder: Path, first_labels: tuple[int, ...], *, packed: bool = False, train: int = 63, test: int = 21
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Write the four files of MNIST or Fashion-MNIST with synthetic pixels; give the training images and labels."""
    rng = np.random.default_rng(5)
    folder.mkdir(parents=True, exist_ok=True)
    images = rng.integers(0, 256, (train + test, 28, 28)).astype(np.uint8)
    labels = rng.integers(0, 10, train + test).astype(np.uint8)
    labels[: len(first_labels)] = first_labels
    for part, rows in (("train", slice(0, train)), ("t10k", slice(train, None))):
        for name, array in ((f"{part}-images-idx3-ubyte", images[rows]), (f"{part}-labels-idx1-ubyte", labels[rows])):
            content = idx_bytes(array)
            (folder / f"{name}{'.gz' * packed}").write_bytes(gzip.compress(content) if packed else content)
    return images[:train], labels[:train]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from the user's cache and home folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
