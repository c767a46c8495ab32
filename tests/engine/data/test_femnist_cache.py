"""The cache of FEMNIST: used where it can be trusted, rebuilt where not, and never in the way. Pixels are synthetic."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rflbat.data import femnist
from rflbat.data.femnist import load
from tests.engine.data.leaf_files import (
    assert_same,
    caches,
    document,
    forbid_parsing,
    make_users,
    write_femnist,
    write_json,
)


def test_a_second_load_does_not_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_femnist(tmp_path / "femnist")
    first = load(tmp_path)
    assert len(caches(tmp_path / "femnist")) == 1
    assert not (tmp_path / "cache").exists()
    forbid_parsing(monkeypatch)
    assert_same(load(tmp_path), first)


@pytest.mark.parametrize("named", [True, False])
def test_a_folder_without_permission_to_write_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    if not named:
        monkeypatch.delenv("XDG_CACHE_HOME")
    write_femnist(tmp_path / "femnist")
    (tmp_path / "femnist").chmod(0o555)  # which stops the superuser no more than an ordinary file does
    first = load(tmp_path)
    assert caches(tmp_path / "femnist") == []
    assert len(caches(tmp_path / ("cache/rflbat" if named else "home/.cache/rflbat"))) == 1
    forbid_parsing(monkeypatch)
    assert_same(load(tmp_path), first)


def test_without_any_place_for_a_cache_it_is_parsed(tmp_path: Path) -> None:
    write_femnist(tmp_path / "femnist")
    (tmp_path / "femnist").chmod(0o555)
    (tmp_path / "cache").write_text("in the way")
    assert_same(load(tmp_path), load(tmp_path))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:-2000] + bytes([content[-2000] ^ 1]) + content[-1999:],
        lambda content: b"no cache at all",
    ],
)
def test_a_damaged_cache_is_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    write_femnist(tmp_path)
    first = load(tmp_path)
    (cache,) = caches(tmp_path)
    cache.write_bytes(damage(cache.read_bytes()))
    assert_same(load(tmp_path), first)
    forbid_parsing(monkeypatch)
    assert_same(load(tmp_path), first)


def test_the_cache_of_other_files_is_not_taken_whatever_its_name(tmp_path: Path) -> None:
    write_femnist(tmp_path)
    first = load(tmp_path)
    (old,) = caches(tmp_path)
    write_json(tmp_path / "leaf_train.json", document(make_users({"f0": 5}, seed=9)))
    second = load(tmp_path)
    assert len(second.train_y) == 5
    (new,) = set(caches(tmp_path)) - {old}
    old.replace(new)
    assert_same(load(tmp_path), second)
    assert not torch.equal(first.test_x[:1], second.train_x[:1])


def test_train_and_test_exchanged_are_other_files(tmp_path: Path) -> None:
    train, test = write_femnist(tmp_path)
    assert len(load(tmp_path).train_y) == 9
    write_json(tmp_path / "leaf_train.json", document(test))
    write_json(tmp_path / "leaf_test.json", document(train))
    assert len(load(tmp_path).train_y) == 3


def test_files_that_change_while_they_are_read_are_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_femnist(tmp_path)
    parse = femnist._parse

    def parse_and_change(*rest: Any) -> dict[str, torch.Tensor]:
        tensors = parse(*rest)
        write_json(tmp_path / "leaf_train.json", document(make_users({"f0": 5})))
        return tensors

    monkeypatch.setattr(femnist, "_parse", parse_and_change)
    load(tmp_path)
    assert caches(tmp_path) == []


def test_a_failed_write_leaves_nothing_and_fails_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *rest: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(femnist, "save_tensors", full)
    write_femnist(tmp_path)
    assert len(load(tmp_path).train_y) == 9
    assert caches(tmp_path) == []
