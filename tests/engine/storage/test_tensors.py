import errno
import io
import json
import os
import struct
import zlib

import pytest
import torch
from safetensors.torch import save_file

from rflbat.errors import UserError
from rflbat.storage.tensors import CODES, FORMAT, Rows, load_tensors, open_checkpoint, rows_of, save_tensors

META = {"round": 7, "seconds": 12.3456789012345678, "config": {"defense": "rflbat", "lr": 0.1, "name": "Zürich"}}


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def same(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and bits(left[name]) == bits(right[name])
        for name in left
    )


def state():
    generator = torch.Generator().manual_seed(3)
    return {
        "params_D": torch.randn(63, generator=generator),
        "history_ND": torch.randn(5, 13, generator=generator, dtype=torch.float64),
        "round": torch.tensor(2**53 + 1),
        "seen_N": torch.tensor([True, False, True]),
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.safetensors"


@pytest.mark.parametrize("dtype", CODES.values())
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (7, 3), (2, 3, 5)])
def test_every_dtype_and_shape_comes_back_bit_for_bit(path, dtype, shape):
    tensor = (torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 100).to(dtype)
    save_tensors(path, {"x": tensor}, META)
    tensors, meta = load_tensors(path)
    assert same(tensors, {"x": tensor})
    assert meta == META


def test_unusual_numbers_keep_their_bits(path):
    payload = struct.unpack("<d", bytes.fromhex("efbeadde0000f87f"))[0]
    tensor = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), payload, 5e-324, 1.7e308], dtype=torch.float64)
    save_tensors(path, {"x": tensor}, {})
    assert same(load_tensors(path)[0], {"x": tensor})


def test_views_of_one_buffer_are_separate_tensors(path):
    buffer = torch.arange(35.0).reshape(5, 7)
    tensors = {
        "rows": buffer[1:3],
        "turned": buffer.T,
        "every second": buffer[::2, 1::2],
        "all": buffer,
        "again": buffer,
        "spread": torch.tensor(2.0).expand(3, 5),
        "learned": torch.nn.Parameter(torch.ones(3)),
    }
    save_tensors(path, tensors, META)
    assert same(load_tensors(path)[0], {name: tensor.detach() for name, tensor in tensors.items()})
    assert torch.equal(buffer, torch.arange(35.0).reshape(5, 7))


def test_no_tensors_at_all(path):
    save_tensors(path, {}, {"round": 0})
    assert load_tensors(path) == ({}, {"round": 0})


def test_nan_in_the_document_is_null(path):
    save_tensors(path, {}, {"round": 1, "accuracy": float("nan")})
    assert load_tensors(path)[1] == {"round": 1, "accuracy": None}


def test_what_was_loaded_does_not_depend_on_the_file(path):
    save_tensors(path, state(), META)
    tensors, _ = load_tensors(path)
    save_tensors(path, {"params_D": torch.zeros(63)}, META)
    path.write_bytes(b"")
    assert same(tensors, state())
    tensors["params_D"].add_(1)
    assert torch.equal(tensors["params_D"], state()["params_D"] + 1)


def test_the_file_is_plain_safetensors_with_readable_metadata(path):
    save_tensors(path, state(), META)
    contents = path.read_bytes()
    (length,) = struct.unpack("<Q", contents[:8])
    header = json.loads(contents[8 : 8 + length])
    assert json.loads(header["__metadata__"]["meta"]) == META
    assert header["history_ND"]["dtype"] == "F64"
    assert list(path.parent.iterdir()) == [path]


def test_a_crash_before_the_rename_leaves_the_old_checkpoint(path, monkeypatch):
    save_tensors(path, state(), META)
    before = path.read_bytes()

    def crash(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        save_tensors(path, {"params_D": torch.zeros(3)}, META | {"round": 8})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def fail_in_the_third_write(monkeypatch, error):
    class Failing(io.FileIO):
        writes = 0

        def write(self, content):
            self.writes += 1
            if self.writes == 3:
                super().write(content[: len(content) // 2])
                raise error
            return super().write(content)

    monkeypatch.setattr("rflbat.storage.tensors.open", Failing, raising=False)


def test_a_crash_while_writing_leaves_the_old_checkpoint(path, monkeypatch):
    save_tensors(path, state(), META)
    before = path.read_bytes()

    fail_in_the_third_write(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        save_tensors(path, state(), META | {"round": 8})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_truncated_file_is_refused_wherever_it_ends(path):
    save_tensors(path, state(), META)
    whole = path.read_bytes()
    for end in [*range(17), *range(17, len(whole), 13), len(whole) - 1]:
        path.write_bytes(whole[:end])
        with pytest.raises(UserError) as caught:
            load_tensors(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole + b"\0")
    with pytest.raises(UserError):
        load_tensors(path)


def test_no_flipped_bit_goes_unnoticed(path):
    save_tensors(path, {"params_D": torch.arange(3.0), "round": torch.tensor(7)}, {"round": 7})
    whole = path.read_bytes()
    for place in range(len(whole)):
        flipped = whole[place] ^ 1 << place % 8
        path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        with pytest.raises(UserError) as caught:
            load_tensors(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("contents", [b"", b"PK\x03\x04" * 5, b"\x80\x04K\x07.", b"{}", b"\xff" * 11, b"\0" * 11])
def test_foreign_files_are_refused(path, contents):
    path.write_bytes(contents)
    with pytest.raises(UserError, match="not a checkpoint"):
        load_tensors(path)


@pytest.mark.parametrize(
    ("metadata", "what"),
    [
        (None, "not a checkpoint of rflbat: format ''"),
        ({"format": "pt"}, "not a checkpoint of rflbat: format 'pt'"),
        (
            {"format": "rflbat checkpoint 0", "meta": "{}"},
            "a checkpoint of another version of rflbat: format 'r",
        ),
        (
            {"format": "rflbat checkpoint 2", "meta": "{}"},
            "a checkpoint of another version of rflbat: format 'r",
        ),
    ],
)
def test_tensors_of_others_and_of_other_versions_are_refused(path, metadata, what):
    save_file({"x": torch.ones(3)}, path, metadata)
    with pytest.raises(UserError, match=what):
        load_tensors(path)


@pytest.mark.parametrize("document", ["", "{", "[1]", "3", "[" * 100_001])
def test_a_document_that_is_none_is_refused_though_its_checksum_is_right(path, document):
    save_file({}, path, {"format": FORMAT, "meta": document, "crc32": f"{zlib.crc32(document.encode()):08x}"})
    with pytest.raises(UserError, match="damaged checkpoint: its document is"):
        load_tensors(path)


def test_a_full_disk_is_an_error_of_the_disk(path, monkeypatch):
    save_tensors(path, state(), META)
    before = path.read_bytes()

    fail_in_the_third_write(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(OSError, match="No space left") as caught:
        save_tensors(path, state(), META)
    assert (caught.value.errno, caught.value.filename) == (28, str(path))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_the_checkpoint_before_is_kept_where_it_is_wanted(path):
    previous = path.with_name("previous")
    for number in range(3):
        save_tensors(path, {}, {"round": number}, previous)
        assert load_tensors(path)[1] == {"round": number}
        assert number == 0 or load_tensors(previous)[1] == {"round": number - 1}
    assert set(path.parent.iterdir()) == {path, previous}


def test_a_link_in_the_way_is_not_written_through(path, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (path.name, f".{path.name}.partial"):
        (tmp_path / name).symlink_to(victim)
    save_tensors(path, state(), META)
    assert victim.read_text() == "precious"
    assert same(load_tensors(path)[0], state())


def test_a_pipe_is_not_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(UserError, match="cannot be read: not a regular file"):
        load_tensors(path)


def test_a_missing_checkpoint_and_a_folder_are_clear_errors(path):
    with pytest.raises(UserError, match="no such checkpoint"):
        load_tensors(path)
    path.mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        load_tensors(path)


# Compatibility, and blocks of rows.

WIDE = torch.randn(7, 1 << 20, generator=torch.Generator().manual_seed(0))


def in_rows(tensor):
    blocks = (tensor[rows] for rows in rows_of(tuple(tensor.shape), tensor.dtype))
    return Rows(tuple(tensor.shape), tensor.dtype, blocks)


def test_a_file_that_safetensors_wrote_is_read(path):
    """The checksum of the format, from its definition."""
    tensors, document = {**state(), "none_ND": torch.empty(0, 4), "z_ND": WIDE}, json.dumps(META)
    crc = zlib.crc32(document.encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(bytes(bits(tensor)) if tensor.numel() < 1000 else tensor.numpy().tobytes(), crc)
    save_file(tensors, path, {"format": FORMAT, "meta": document, "crc32": f"{crc:08x}"})
    found, meta = load_tensors(path)
    assert meta == META
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_rows_and_whole_tensors_give_the_same_file(path):
    tricky = {"config": {"name": 'Zürich "crc32": "00000000"'}}
    tensors = {**state(), "z_ND": WIDE, "image_NCHW": torch.arange(210).view(5, 2, 3, 7), "none_ND": torch.empty(0, 4)}
    save_tensors(path, tensors, tricky)
    whole = path.read_bytes()
    divided = {name: in_rows(tensor) if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    save_tensors(path, divided, tricky)
    assert path.read_bytes() == whole


def test_tensors_are_read_in_rows(path):
    image = torch.arange(210).view(5, 2, 3, 7)
    save_tensors(path, {**state(), "z_ND": WIDE, "image_NCHW": image}, META)
    stored = open_checkpoint(path)
    assert stored.meta == META
    blocks = list(rows_of(tuple(WIDE.shape), WIDE.dtype))
    assert len(blocks) == 2
    assert torch.equal(torch.cat([stored.rows("z_ND", rows) for rows in blocks]), WIDE)
    assert torch.equal(stored.rows("image_NCHW", slice(1, 3)), image[1:3])
    assert torch.equal(stored.rows("params_D", slice(0, 1)), state()["params_D"].view(1, 63))
    assert list(stored.shapes) == sorted([*state(), "z_ND", "image_NCHW"])
    assert all((like.device.type, like.shape) == ("meta", stored.whole(n).shape) for n, like in stored.shapes.items())


def test_blocks_have_sixteen_mebibytes_whatever_the_axes():
    blocks = list(rows_of((1000, 1, 512, 512), torch.float32))
    assert [block.stop - block.start for block in blocks[:-1]] == [16] * 62
    assert blocks[-1] == slice(992, 1000)
    assert list(rows_of((), torch.float32)) == list(rows_of((5,), torch.float32)) == [slice(0, 1)]
    assert list(rows_of((3, 0), torch.float32)) == [slice(0, 3)]
    assert list(rows_of((0, 3), torch.float32)) == []


@pytest.mark.parametrize("at", [-1, -3_000_000])
def test_a_flipped_bit_in_a_large_tensor_is_seen(path, at):
    save_tensors(path, {"z_ND": WIDE}, META)
    contents = bytearray(path.read_bytes())
    contents[at] ^= 1
    path.write_bytes(contents)
    with pytest.raises(UserError, match="do not match their checksum"):
        open_checkpoint(path)


def test_a_row_that_cannot_be_had_leaves_the_old_file(path):
    def broken():
        yield WIDE[:1]
        raise OSError(28, "No space left on device")

    save_tensors(path, state(), META)
    before = path.read_bytes()
    with pytest.raises(OSError, match="No space left"):
        save_tensors(path, {"a": Rows((7, 1 << 20), torch.float32, broken())}, META)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_conjugated_and_negated_views_are_resolved(path):
    tensor = torch.randn(5, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    save_tensors(path, {"conj": tensor.conj(), "neg": tensor.conj().imag}, META)
    assert same(load_tensors(path)[0], {"conj": tensor.conj().resolve_conj(), "neg": -tensor.imag})


def test_a_dtype_that_cannot_be_stored_names_the_tensor(path):
    with pytest.raises(UserError, match=r"^tensor 'a' has dtype torch.complex128, .*; allowed: float64, "):
        save_tensors(path, {"a": torch.zeros(3, dtype=torch.complex128)}, META)
    assert not path.exists()
