"""Checkpoints in blocks of rows: the same file in content, and the same refusals."""

import pytest
import torch
from safetensors import safe_open

from rflbat.errors import UserError
from rflbat.storage import streamed
from rflbat.storage.streamed import Rows, open_checkpoint, rows_of
from rflbat.storage.tensors import load_tensors, save_tensors

META = {"round": 7, "seconds": 12.5, "config": {"name": 'Zürich "crc32": "00000000"'}}
WIDE = torch.randn(7, 1 << 20, generator=torch.Generator().manual_seed(0))


def state():
    draws = torch.Generator().manual_seed(3)
    return {
        "params_D": torch.randn(63, generator=draws),
        "odd_D": torch.rand(5, generator=draws) > 0.5,
        "double_ND": torch.randn(5, 13, generator=draws, dtype=torch.float64),
        "half": torch.tensor(1.5, dtype=torch.bfloat16),
        "none_ND": torch.empty(0, 4),
        "z_ND": WIDE,
    }


def in_rows(tensor):
    blocks = (tensor[rows] for rows in rows_of(tuple(tensor.shape), tensor.dtype))
    return Rows(tuple(tensor.shape), tensor.dtype, blocks)


def equal(left, right):
    return left.keys() == right.keys() and all(
        (left[name].dtype, left[name].shape) == (right[name].dtype, right[name].shape)
        and torch.equal(left[name], right[name])
        for name in left
    )


@pytest.fixture
def path(tmp_path):
    streamed.save(
        tmp_path / "state", {**state(), "z_ND": in_rows(WIDE), "double_ND": in_rows(state()["double_ND"])}, META
    )
    return tmp_path / "state"


def test_what_is_written_in_rows_is_read_whole(path):
    tensors, meta = load_tensors(path)
    assert equal(tensors, state())
    assert meta == META


def test_what_is_written_whole_is_read_in_rows(tmp_path):
    save_tensors(tmp_path / "state", state(), META)
    stored = open_checkpoint(tmp_path / "state")
    assert stored.meta == META
    blocks = list(rows_of(tuple(WIDE.shape), WIDE.dtype))
    assert len(blocks) == 2
    assert torch.equal(torch.cat([stored.rows("z_ND", rows) for rows in blocks]), WIDE)
    assert equal({name: stored.whole(name) for name in stored.shapes}, state())


def test_both_writers_write_the_same_checksum(path, tmp_path):
    save_tensors(tmp_path / "whole", state(), META)
    found = []
    for each in (path, tmp_path / "whole"):
        with safe_open(each, framework="pt") as file:
            found.append(file.metadata())
    assert found[0] == found[1]


@pytest.mark.parametrize("at", [-1, -3_000_000])
def test_a_flipped_bit_is_seen(at, path):
    contents = bytearray(path.read_bytes())
    contents[at] ^= 1
    path.write_bytes(contents)
    with pytest.raises(UserError, match="do not match their checksum"):
        open_checkpoint(path)


def test_a_truncated_file_is_no_checkpoint(path):
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="not a checkpoint, or damaged"):
        open_checkpoint(path)
    with pytest.raises(UserError, match="no such checkpoint"):
        open_checkpoint(path.with_name("nothing"))


def test_a_row_that_cannot_be_had_leaves_the_old_file(path):
    def broken():
        yield WIDE[:1]
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    with pytest.raises(OSError, match="No space left"):
        streamed.save(path, {"a": Rows((7, 1 << 20), torch.float32, broken())}, META)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["state"]
