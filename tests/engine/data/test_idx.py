import contextlib
import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rflbat.data.idx import read_idx
from rflbat.errors import UserError
from tests.engine.data.conftest import idx_bytes

HINT = "get it from the archive"
MAX_BYTES = 8 * 2**20  # far above the reader's 1 MiB pieces, far below what the lying headers claim


def arrays() -> list[npt.NDArray[np.generic]]:
    rng = np.random.default_rng(3)
    return [
        rng.integers(0, 256, 63).astype(np.uint8),
        rng.integers(0, 256, (7, 5, 3)).astype(np.uint8),
        rng.integers(-(2**31), 2**31, (101, 8)).astype(np.int32),
    ]


def header(magic: int, *sizes: int) -> bytes:
    return struct.pack(f">{1 + len(sizes)}I", magic, *sizes)


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_idx(path, HINT)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith(f"; {HINT}")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("array", arrays(), ids=["labels", "images", "int32"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["data", "data.gz"])  # the name says nothing: browsers unpack and keep ".gz"
def test_reads_back_what_was_written(tmp_path: Path, array: npt.NDArray[np.generic], zipped: bool, name: str) -> None:
    content = idx_bytes(array)
    path = tmp_path / name
    path.write_bytes(packed(content) if zipped else content)
    read = read_idx(path)
    assert read.dtype == array.dtype
    assert read.dtype.isnative
    assert read.flags.writeable
    np.testing.assert_array_equal(read, array)


def test_reads_more_than_one_piece(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (1501, 28, 28)).astype(np.uint8)  # 1.1 MiB
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx_bytes(array), 1))
    np.testing.assert_array_equal(read_idx(path), array)


PLAIN_MISTAKES = {
    "empty": (b"", "starts with 0x,"),
    "short magic": (b"\x00\x00\x08", "starts with 0x000008,"),
    "web page": (b"<!DOCTYPE html>", "starts with 0x3c21444f,"),
    "unknown magic": (header(0x0802, 2, 2) + b"1234", "starts with 0x00000802,"),
    "short header": (header(0x0803, 2), "ends inside its header, which has 16 bytes"),
    "short": (header(0x0801, 5) + b"1234", "declares 5 values (5 bytes), but 4 bytes follow it"),
    "long": (header(0x0801, 3) + b"1234", "declares 3 values (3 bytes), but 4 bytes follow it"),
    "short int32": (header(0x0C02, 1, 8) + bytes(8), "declares 1 x 8 values (32 bytes), but 8 bytes follow it"),
    "no values": (header(0x0801, 0), "declares 0 values (0 bytes); allowed: 1"),
    "no images": (header(0x0803, 0, 2**32 - 1, 2**32 - 1), "(0 bytes); allowed: 1"),
    "absurd": (header(0x0803, 2**32 - 1, 2**32 - 1, 2**32 - 1) + b"1", "allowed: 1 to"),
}

GZIP_MISTAKES = {
    "web page": (packed(b"<html>"), "starts with 0x3c68746d,"),
    "short": (packed(header(0x0801, 5) + b"1234"), "but only 4 bytes follow it"),
    "long": (packed(header(0x0801, 3) + b"1234"), "but more bytes follow it"),
    "second member": (packed(header(0x0801, 3) + b"123") + packed(b"4"), "but more bytes follow it"),
    "garbage behind": (packed(header(0x0801, 3) + b"123") + b"garbage", "gzip data is damaged"),
    "truncated": (packed(header(0x0801, 999) + bytes(999))[:-12], "cut short"),
    "no checksum": (packed(header(0x0801, 3) + b"123")[:-4], "cut short"),
    "two bytes": (b"\x1f\x8b", "cut short"),
    "unknown method": (b"\x1f\x8b\x07" + bytes(20), "gzip data is damaged"),
    "invalid block": (packed(b"")[:10] + b"\xff" * 20, "gzip data is damaged"),
}


@pytest.mark.parametrize(("content", "what"), PLAIN_MISTAKES.values(), ids=PLAIN_MISTAKES)
def test_wrong_plain_file_is_one_clear_line(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert what in error_of(path)


@pytest.mark.parametrize(("content", "what"), GZIP_MISTAKES.values(), ids=GZIP_MISTAKES)
def test_wrong_gzip_file_is_one_clear_line(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    assert what in error_of(path)


def test_flipped_byte_in_gzip_is_caught_by_its_checksum(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(header(0x0801, 1001) + np.random.default_rng(1).bytes(1001)))
    content[500] ^= 1  # random bytes are stored, not compressed: the stream stays readable and only the CRC differs
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    assert "CRC" in error_of(path)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory)" in error_of(tmp_path / "absent")
    assert "cannot be read (Is a directory)" in error_of(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("sizes", [(2**20, 2**10, 2**10), (2**20, 2**6, 2**5)], ids=["2^40", "2^31"])
def test_lying_header_takes_no_memory(tmp_path: Path, zipped: bool, sizes: tuple[int, int, int]) -> None:
    content = header(0x0803, *sizes) + bytes(63)
    path = tmp_path / "images"
    path.write_bytes(packed(content) if zipped else content)
    tracemalloc.start()
    try:
        message = error_of(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "allowed" in message or "follow it" in message
    assert peak < MAX_BYTES


def test_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header(0x0803, 2, 28, 28))
        for _ in range(48):
            file.write(bytes(2**20))
    tracemalloc.start()
    try:
        message = error_of(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "but more bytes follow it" in message
    assert peak < MAX_BYTES


def test_without_a_hint_the_message_just_ends(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(No such file or directory\)$"):
        read_idx(tmp_path / "absent")


STARTS = [b"", b"\x1f\x8b\x08\x00", header(0x0C02), *(header(0x0801, size) for size in range(7))]


@settings(derandomize=True, deadline=None)
@given(start=st.sampled_from(STARTS), content=st.binary(max_size=63))
def test_any_bytes_give_their_array_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, start: bytes, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(start + content)
    with contextlib.suppress(UserError):
        assert idx_bytes(read_idx(path)) == start + content
