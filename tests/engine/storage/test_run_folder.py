import json
import os

import pytest

from rflbat.errors import UserError
from rflbat.storage.run_folder import CHECKPOINT, CLIENTS, ROUNDS, RUN, SUMMARY, TIMINGS, RunFolder

DAMAGED = {
    "empty": b"",
    "cut": b"{",
    "trailing": b'{"a": 1} {',
    "encoding": b"\xff\xfe",
    "zeros": b"\0" * 63,
    "list": b"[1]",
    "null": b"null",
    "deep": b"[" * 100_001,
}
BROKEN = DAMAGED | {"object without round": b"{}", "round of text": b'{"round": "3"}'}


def test_everything_is_read_back(tmp_path):
    folder = RunFolder.create(tmp_path / "a" / "b", {"config": {"rounds": 2, "lr": 0.1}, "sizes": [3, 4]})
    assert (folder.rounds(), folder.clients(), folder.timings(), folder.summary()) == ([], [], [], None)
    folder.append_round({"round": 0, "accuracy": 0.1 + 0.2})
    folder.append_clients([{"round": 0, "client": 0, "coordinates": [1.5, -2.0]}, {"round": 0, "client": 1}])
    folder.append_timing({"round": 0, "seconds": 1e-7})
    folder.write_summary({"accuracy": 0.5, "name": "Zürich"})
    again = RunFolder.open(tmp_path / "a" / "b")
    assert again.run() == {"config": {"rounds": 2, "lr": 0.1}, "sizes": [3, 4]}
    assert again.rounds() == [{"round": 0, "accuracy": 0.1 + 0.2}]
    assert again.clients() == [{"round": 0, "client": 0, "coordinates": [1.5, -2.0]}, {"round": 0, "client": 1}]
    assert again.timings() == [{"round": 0, "seconds": 1e-7}]
    assert again.summary() == {"accuracy": 0.5, "name": "Zürich"}
    assert (again.checkpoint.parent, again.figures.parent) == (again.path, again.path)


def test_a_line_is_on_disk_as_soon_as_it_is_appended(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {})
    for number in range(3):
        folder.append_round({"round": number})
        lines = (folder.path / ROUNDS).read_text().splitlines()
        assert [json.loads(line)["round"] for line in lines] == list(range(number + 1))


def test_nan_becomes_null_in_every_file(tmp_path):
    nan = float("nan")
    folder = RunFolder.create(tmp_path / "run", {"config": {"alpha": nan}})
    folder.append_round({"round": 0, "accuracy": nan})
    folder.append_clients([{"round": 0, "score": float("inf"), "coordinates": [nan, 1.0]}])
    folder.append_timing({"round": 0, "seconds": nan})
    folder.write_summary({"attack_success_rate": nan})
    for path in folder.path.iterdir():
        text = path.read_text()
        assert "null" in text, path
        assert "NaN" not in text, path
        assert "Infinity" not in text, path
    assert folder.clients() == [{"round": 0, "score": None, "coordinates": [None, 1.0]}]


@pytest.mark.parametrize("name", [RUN, SUMMARY, ROUNDS, CLIENTS, TIMINGS, CHECKPOINT])
def test_a_run_is_never_overwritten(tmp_path, name):
    path = tmp_path / "run"
    path.mkdir()
    (path / name).write_text("precious")
    with pytest.raises(UserError) as caught:
        RunFolder.create(path, {})
    assert f"rflbat resume {path}" in str(caught.value)
    assert "--out" in str(caught.value)
    assert (path / name).read_text() == "precious"
    assert len(list(path.iterdir())) == 1


def test_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder.create(tmp_path, {"config": {}})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_in_the_way_is_a_clear_error(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match="cannot make a run folder"):
        RunFolder.create(tmp_path / "run", {})
    with pytest.raises(UserError, match="cannot make a run folder"):
        RunFolder.create(tmp_path / "run" / "below", {})


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"run\.json: no such file"):
        RunFolder.open(tmp_path)
    with pytest.raises(UserError, match="elsewhere"):
        RunFolder.open(tmp_path / "elsewhere")


@pytest.mark.parametrize("contents", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("name", [RUN, SUMMARY])
def test_damaged_json_is_named_in_one_line(run, name, contents):
    (run.path / name).write_bytes(contents)
    with pytest.raises(UserError) as caught:
        RunFolder.open(run.path).summary()
    assert str(caught.value).startswith(f"{run.path / name}: damaged")
    assert "\n" not in str(caught.value)


def test_a_half_written_last_line_is_ignored(run):
    path = run.path / ROUNDS
    whole, records = path.read_bytes(), run.rounds()
    start = whole.rindex(b"\n", 0, -1) + 1
    for end in (start, start + 1, (start + len(whole)) // 2, len(whole) - 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert run.rounds() == records[:-1], end
    path.write_bytes(whole[:start] + b"\0" * 101 + b"\n")
    assert run.rounds() == records[:-1]


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("name", [ROUNDS, CLIENTS, TIMINGS])
def test_a_broken_line_in_the_middle_is_an_error_that_counts_lines(run, name, line):
    path = run.path / name
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:2], line + b"\n", *lines[3:]])
    path.write_bytes(damaged)
    read = {ROUNDS: run.rounds, CLIENTS: run.clients, TIMINGS: run.timings}[name]
    for action in (read, lambda: run.truncate(99)):
        with pytest.raises(UserError, match=r"damaged: line 3 ") as caught:
            action()
        assert str(path) in str(caught.value)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("first", range(7))
def test_truncate_forgets_later_rounds_and_keeps_the_bytes_of_earlier_ones(run, first):
    before = {name: (run.path / name).read_bytes() for name in (ROUNDS, CLIENTS, TIMINGS)}
    expected = [[row for row in rows if row["round"] < first] for rows in (run.rounds(), run.clients(), run.timings())]
    run.truncate(first)
    assert [run.rounds(), run.clients(), run.timings()] == expected
    assert len(expected[0]) == min(first, 5)
    for name, contents in before.items():
        assert contents.startswith((run.path / name).read_bytes())


def test_after_truncate_a_killed_run_can_append(run):
    path = run.path / ROUNDS
    whole, records = path.read_bytes(), run.rounds()
    path.write_bytes(whole[:-5])
    run.truncate(4)
    run.append_round(records[4])
    assert path.read_bytes() == whole


def test_truncate_needs_no_files(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {})
    folder.truncate(0)
    assert [path.name for path in folder.path.iterdir()] == [RUN]


def test_a_crash_before_the_rename_leaves_the_old_files(run, monkeypatch):
    run.write_summary({"accuracy": 0.5})
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}

    def crash(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    for action in (lambda: run.write_summary({"accuracy": 0.9}), lambda: run.truncate(1)):
        with pytest.raises(KeyboardInterrupt):
            action()
        assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before
