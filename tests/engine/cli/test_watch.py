"""Following a run from another process: existing lines, new lines, and the end of the run."""

import shutil
import threading

import pytest

from rflbat.simulation.follow import follow
from rflbat.storage.lock import LOCK
from rflbat.storage.run_folder import RunFolder
from tests.engine.cli.conftest import succeed

SMALL = "--clients 7 --rounds 4 --local-steps 1 --batch-size 9 --defense rflbat --device cpu --quiet"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return succeed(tmp_path_factory.mktemp("watched"), f"run {SMALL} --out run").path / "run"


@pytest.fixture
def run(finished, tmp_path):
    return RunFolder(shutil.copytree(finished, tmp_path / "run"))


def test_a_finished_run_is_shown_to_its_end(run, call):
    status, out, err = call("watch run")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines[:4]] == [f"round {number}/4" for number in range(1, 5)]
    assert "Result" in out


def test_a_run_that_nobody_writes_is_named(run, call):
    (run.path / "summary.json").unlink()
    status, out, err = call("watch run")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "no process is writing this run; continue it with `rflbat resume run`"


def test_rounds_are_given_as_they_are_written(run):
    rounds, timings, summary = run.rounds(), run.timings(), run.summary()
    run.truncate(0)
    (run.path / "summary.json").unlink()
    (run.path / LOCK).write_text("process 1 on here\n")
    steps = iter(
        [
            lambda: run.append_round(rounds[0]),  # not complete yet
            lambda: run.append_timing(timings[0]),
            lambda: [(run.append_round(rounds[n]), run.append_timing(timings[n])) for n in (1, 2)],
            lambda: run.truncate(2),  # resumed from an earlier checkpoint
            lambda: [(run.append_round(rounds[n]), run.append_timing(timings[n])) for n in (2, 3)],
            lambda: (run.write_summary(summary), (run.path / LOCK).unlink()),
        ]
    )
    found = [record["round"] for record in follow(run, lambda: next(steps)())]
    assert found == [0, 1, 2, 2, 3]
    assert list(steps) == []


def test_it_follows_another_thread_s_run(tmp_path, call):
    thread = threading.Thread(target=succeed, args=(tmp_path, f"run {SMALL} --out live"))
    thread.start()
    try:
        while not (tmp_path / "live" / "run.json").exists():
            assert thread.is_alive()
        records = list(follow(RunFolder(tmp_path / "live"), lambda: thread.join(0.01)))
    finally:
        thread.join()
    assert [record["round"] for record in records] == [0, 1, 2, 3]
    assert all(record["seconds"] > 0 and record["memory"] > 0 for record in records)


def test_a_folder_without_a_run_is_a_mistake(mistake):
    assert "run.json" in mistake("watch nowhere")
