"""The lock of a run folder, against a process that holds it by the system's own means."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rflbat import Experiment, UserError, resume, run
from rflbat.storage import lock
from rflbat.storage.lock import LOCK, sole_writer
from rflbat.sweep.cells import CellsFailed, make_cells, sweep
from tests.engine.cli.conftest import everything

fcntl = pytest.importorskip("fcntl", reason="this system has no flock")

HOLDER = """
import fcntl, os, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(f"process {os.getpid()} on elsewhere\\n")
file.flush()
print("held", flush=True)
sys.stdin.read()
"""
SMALL = Experiment(clients=5, rounds=2, local_steps=1, batch_size=9, defense="fedavg")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.0)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes to the folder `held`."""
    (tmp_path / "held").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "held" / LOCK)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "a" / "b"):
        told = (tmp_path / "a" / "b" / LOCK).read_text()
        assert re.fullmatch(rf"process {os.getpid()} on \S+\n", told)
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_another_process_is_named_and_left_alone(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    before = (tmp_path / "held" / LOCK).read_text()
    with pytest.raises(UserError) as caught, sole_writer(tmp_path / "held"):
        pass
    expected = f"{tmp_path / 'held'}: in use by process {holder.pid} on elsewhere; wait until that run ends, or use"
    assert str(caught.value).startswith(expected)
    assert (tmp_path / "held" / LOCK).read_text() == before


def test_a_killed_process_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert (tmp_path / "held" / LOCK).exists()
    with sole_writer(tmp_path / "held"):
        assert f"process {os.getpid()} " in (tmp_path / "held" / LOCK).read_text()
    assert not (tmp_path / "held" / LOCK).exists()


def test_a_holder_that_is_just_ending_is_waited_for(
    tmp_path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 60.0)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: (holder.kill(), holder.wait()))
    with sole_writer(tmp_path / "held"):
        pass


def test_a_second_writer_in_one_process_is_refused(tmp_path: Path) -> None:
    with sole_writer(tmp_path):
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} "), sole_writer(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
    with sole_writer(tmp_path):
        pass


def test_a_file_that_was_removed_before_it_was_locked_is_worth_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder ends between the other's opening of the file and its locking."""
    real = lock._is_held_by_another
    calls: list[int] = []

    def ending(descriptor: int) -> bool:
        calls.append(descriptor)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()
        return real(descriptor)

    monkeypatch.setattr(lock, "_is_held_by_another", ending)
    with sole_writer(tmp_path):
        assert len(calls) == 2
        with pytest.raises(UserError, match="in use by"), sole_writer(tmp_path):
            pass


def test_the_lock_of_a_folder_made_anew_is_not_removed(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "run"):
        (tmp_path / "run").rename(tmp_path / "moved")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / LOCK).write_text("of another")
    assert (tmp_path / "run" / LOCK).read_text() == "of another"


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="cannot make a run folder or write to it"), sole_writer(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with sole_writer(tmp_path):
        pass
    assert "make sure that no other process uses it" in caplog.text


# Who takes it.


def test_run_resume_and_sweep_are_refused_while_another_process_writes(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    path = tmp_path / "held"
    before = everything(tmp_path)
    with pytest.raises(UserError, match=f"in use by process {holder.pid} on elsewhere"):
        run(SMALL, path)
    assert everything(tmp_path) == before
    (cell,) = make_cells(SMALL, {}, 1)
    (tmp_path / "cells").mkdir()
    path.rename(tmp_path / "cells" / cell.name)
    held = everything(tmp_path)
    with pytest.raises(CellsFailed, match=f"in use by process {holder.pid} on elsewhere"):
        sweep([cell], tmp_path)
    assert everything(tmp_path) == held
    (tmp_path / "cells" / cell.name).rename(path)
    finished = run(SMALL, tmp_path / "run")
    (tmp_path / "run/summary.json").rename(tmp_path / "summary.json")
    for file in (tmp_path / "run").iterdir():
        file.rename(path / file.name)
    files = {file: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(UserError, match=f"in use by process {holder.pid} on elsewhere"):
        resume(path)
    assert {file: file.read_bytes() for file in path.iterdir()} == files
    holder.kill()
    holder.wait()
    assert resume(path).rounds == finished.rounds


def test_a_finished_run_is_read_while_another_process_holds_its_folder(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    finished = run(SMALL, tmp_path / "run")
    for file in (tmp_path / "run").iterdir():
        file.rename(tmp_path / "held" / file.name)
    assert resume(tmp_path / "held").summary == finished.summary


def test_the_folder_is_held_in_every_round(tmp_path: Path) -> None:
    held = []

    class Looker:
        def on_start(self, run: object) -> None:
            self.look()

        def on_round(self, record: object) -> None:
            self.look()

        def on_end(self, summary: object) -> None:
            pass

        def look(self) -> None:
            with pytest.raises(UserError, match="in use by"):
                resume(tmp_path / "run")
            held.append(True)

    run(SMALL, tmp_path / "run", [Looker()])
    assert held == [True] * 3
    assert not (tmp_path / "run" / LOCK).exists()
