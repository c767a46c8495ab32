import json
import os

import pytest
import torch

from rflbat.storage.atomic import replacing, to_json


def test_the_new_file_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt])
def test_a_crash_while_writing_leaves_the_old_file(tmp_path, exception):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def interrupted():
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise exception

    with pytest.raises(exception):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_crash_before_the_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def crash(source, target):
        raise OSError("the power went out")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="power"), replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_contents_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (calls.append("fsync"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    with replacing(tmp_path / "file.txt") as temporary:
        temporary.write_text("new")
    assert calls == ["fsync", "replace"]


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    path = tmp_path / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("old")
    temporary.write_text("a long half-written text")
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_null_for_what_json_cannot_say():
    nan, infinity = float("nan"), float("inf")
    text = to_json({"a": nan, "b": [infinity, -infinity, (nan, 1.5)], "c": {"d": nan}, "e": True, "f": 0.1})
    assert json.loads(text) == {"a": None, "b": [None, None, [None, 1.5]], "c": {"d": None}, "e": True, "f": 0.1}
    assert "NaN" not in text
    assert "Infinity" not in text


def test_json_takes_no_tensors():
    with pytest.raises(TypeError):
        to_json({"accuracy": torch.tensor(0.5)})
