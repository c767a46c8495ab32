"""Cells in processes and as Ray tasks: the same folders, failures recorded and tried again, the sweep going on."""

import os
import sys
from ast import literal_eval
from collections import deque

import pytest
import torch

from rflbat import Experiment, UserError
from rflbat.report.build import report_sweep
from rflbat.storage.run_folder import RunFolder
from rflbat.sweep.cells import CellsFailed, make_cells, sweep
from rflbat.sweep.launchers import make_launcher
from rflbat.sweep.local import places_of
from tests.engine.failing import MODULE

SMALL = Experiment(clients=9, rounds=3, local_steps=2, batch_size=7, checkpoint_every=1)


@pytest.fixture
def bad(tmp_path, monkeypatch):
    """The name of a module with defenses that fail; each test has its own, and leaves none imported."""
    name = "failing_" + "".join(letter for letter in tmp_path.name if letter.isalnum())
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def cells_of(*defenses, seeds=1):
    return make_cells(SMALL, {"defense": list(defenses)}, seeds)


def folder_of(out, cell):
    return out / "cells" / cell.name


def records(out, cell):
    """Files that must not depend on the launcher, byte by byte."""
    return [(folder_of(out, cell) / name).read_bytes() for name in ("rounds.jsonl", "clients.jsonl")] + [
        {key: value for key, value in RunFolder.open(folder_of(out, cell)).summary().items() if key != "seconds"}
    ]


# Failures.


def failures_of(out, cell):
    return {file.name: file.read_text() for file in folder_of(out, cell).glob("failure*")}


def history_of(told, cell):
    return [event.what for event in told if event.cell == cell]


TWICE = ["started", "again", "started"]


def test_a_failed_cell_is_recorded_tried_again_and_passed_over(tmp_path, bad):
    cells, told = cells_of(f"{bad}:always", "fedavg"), []
    with pytest.raises(CellsFailed) as caught:
        sweep(cells, tmp_path / "out", on_event=told.append)
    assert list(caught.value.summaries) == [cells[1].name]
    assert caught.value.failed == {cells[0].name: "RuntimeError: too bad"}
    assert f"1 of 2 cells failed ({cells[0].name}: RuntimeError: too bad)" in str(caught.value)
    ((name, text),) = failures_of(tmp_path / "out", cells[0]).items()
    assert name == "failure.txt"
    assert [text.count(part) for part in ("attempt 1, 20", "attempt 2, 20", "Traceback", ", in _always")] == [
        1,
        1,
        2,
        2,
    ]
    assert (tmp_path / "always.failures").read_text() == "xx"
    assert [history_of(told, cell) for cell in cells] == [[*TWICE, "failed"], ["started", "done"]]
    assert report_sweep(tmp_path / "out").unfinished == [cells[0].name]


def test_what_succeeds_the_second_time_keeps_its_first_failure_and_loses_nothing(tmp_path, bad):
    (cell,) = cells_of(f"{bad}:once")
    sweep([cell], tmp_path / "out")
    ((name, text),) = failures_of(tmp_path / "out", cell).items()
    assert name == "failure.overcome.txt"
    assert "RuntimeError: not yet" in text
    assert "attempt 2" not in text
    assert [row["round"] for row in RunFolder.open(folder_of(tmp_path / "out", cell)).rounds()] == [0, 1, 2]
    assert (tmp_path / "once.rounds").read_text() == "x" * 4  # it went on from the checkpoint of its first round


def test_a_mistake_of_the_user_is_made_once(tmp_path, bad):
    cells = cells_of(f"{bad}:mistaken", "fedavg")
    with pytest.raises(CellsFailed) as caught:
        sweep(cells, tmp_path / "out")
    assert caught.value.failed == {cells[0].name: "this cannot be"}
    assert (tmp_path / "mistaken.failures").read_text() == "x"
    assert "attempt 1, 20" in failures_of(tmp_path / "out", cells[0])["failure.txt"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system pins no process")
def test_processes_fail_and_die_alone_and_keep_to_their_cores(tmp_path, bad):
    pinned = cells_of(f"{bad}:pinned", seeds=2)  # the first of each process
    names = ("always", "once", "dies", "mistaken")
    cells = dict(zip(names, cells_of(*(f"{bad}:{name}" for name in names)), strict=True))
    (good,) = cells_of("fedavg")
    told = []
    with pytest.raises(CellsFailed) as caught:
        sweep([*pinned, *cells.values(), good], tmp_path / "out", 2, told.append)
    assert caught.value.failed == {
        cells["always"].name: "RuntimeError: too bad",
        cells["dies"].name: "its process ended with exit status 7",
        cells["mistaken"].name: "this cannot be",
    }
    finished = [*pinned, cells["once"], good]
    assert list(caught.value.summaries) == [cell.name for cell in finished]
    assert {name: history_of(told, cell) for name, cell in cells.items()} == {
        "always": [*TWICE, "failed"],
        "once": [*TWICE, "done"],
        "dies": [*TWICE, "failed"],
        "mistaken": ["started", "failed"],
    }
    assert ", in _always" in failures_of(tmp_path / "out", cells["always"])["failure.txt"]
    lines = failures_of(tmp_path / "out", cells["dies"])["failure.txt"].splitlines()
    assert [line.partition(": ")[2] for line in lines if line.startswith("attempt ")] == [
        "its process ended by signal SIGKILL",
        "its process ended with exit status 7",
    ]
    seen = [literal_eval(file.read_text()) for file in tmp_path.glob("pinned.*[0-9]")]
    assert sorted(cores for cores, _, _ in seen) == sorted(sorted(cores) for cores, _ in places_of(2, cuda=False))
    assert {threads for _, _, threads in seen} == {1}


def test_the_same_sweep_again_tries_what_failed(tmp_path, bad):
    cells = cells_of(f"{bad}:always", "fedavg")
    with pytest.raises(CellsFailed):
        sweep(cells, tmp_path / "out")
    source = (tmp_path / f"{bad}.py").read_text()
    (tmp_path / f"{bad}.py").write_text(source.replace('raise RuntimeError("too bad")', "return"))
    del sys.modules[bad]
    told = []
    assert list(sweep(cells, tmp_path / "out", on_event=told.append)) == [cell.name for cell in cells]
    assert [(event.what, event.cell) for event in told] == [
        ("done", cells[1]),
        ("started", cells[0]),
        ("done", cells[0]),
    ]
    names = {file.name for file in folder_of(tmp_path / "out", cells[0]).glob("failure*")}
    assert names == {"failure.overcome.txt"}


# Places.


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system pins no process")
@pytest.mark.parametrize("jobs", [1, 2, 3, 7])
def test_places_share_the_cores(monkeypatch, jobs):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 4, 5, 8, 9})
    cores = [cores for cores, _ in places_of(jobs, cuda=False)]
    assert set().union(*cores) == {1, 4, 5, 8, 9}
    assert all(cores)
    if jobs <= 5:
        assert sum(map(len, cores)) == 5


def test_places_take_gpus_in_turn(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [gpu for _, gpu in places_of(5, cuda=True)] == ["0", "1", "2", "0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,GPU-8c")
    assert [gpu for _, gpu in places_of(3, cuda=True)] == ["6", "GPU-8c", "6"]
    assert [gpu for _, gpu in places_of(3, cuda=False)] == [None] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("locl", 1, None, "cpu"), "unknown launcher 'locl'; did you mean 'local'?"),
        (("local", 0, None, "cpu"), "jobs=0 is out of range"),
        (("local", 2, 0.5, "cuda"), "gpus_per_cell=0.5 needs launcher 'ray'"),
        (("ray", 2, None, "cpu"), "jobs=2 needs launcher 'local'"),
        (("ray", 1, -0.5, "cpu"), "gpus_per_cell=-0.5 is out of range"),
        (("ray", 1, 1.5, "cuda"), "gpus_per_cell=1.5 is out of range"),
        (("ray", 1, float("nan"), "cuda"), "gpus_per_cell=nan is out of range"),
        (("ray", 1, float("inf"), "cuda"), "gpus_per_cell=inf is out of range"),
        (("ray", 1, 0.0, "cuda"), "gpus_per_cell=0 hides every GPU"),
    ],
)
def test_launchers_refuse_what_they_do_not_take(settings, message):
    with pytest.raises(UserError) as caught:
        make_launcher(*settings)
    assert str(caught.value).startswith(message)


def test_ray_defaults_to_a_gpu_a_cell_on_cuda():
    assert [make_launcher("ray", 1, None, device).keywords for device in ("cpu", "cuda")] == [{"gpus": 0}, {"gpus": 1}]
    assert make_launcher("ray", 1, 2, "cuda").keywords == {"gpus": 2}


def test_ray_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'rflbat\[ray\]'$"):
        next(make_launcher("ray", 1, None, "cpu")(deque(["x"]), len))


# Ray itself.


@pytest.fixture
def local_ray(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_gives_the_folders_of_the_local_launcher_and_survives_failures(tmp_path, bad, local_ray):
    good = cells_of("fedavg", "rflbat", "foolsgold")
    cells = [*good, *cells_of(f"{bad}:always", f"{bad}:once", f"{bad}:dies", f"{bad}:mistaken")]
    sweep(good, tmp_path / "local", 2)
    told = []
    with pytest.raises(CellsFailed) as caught:
        sweep(cells, tmp_path / "ray", on_event=told.append, launcher="ray")
    assert local_ray.is_initialized()  # it was not ours to end
    for cell in good:
        assert records(tmp_path / "ray", cell) == records(tmp_path / "local", cell)
        here, there = ({f.name for f in folder_of(tmp_path / kind, cell).iterdir()} for kind in ("local", "ray"))
        assert here == there
        assert RunFolder.open(folder_of(tmp_path / "ray", cell)).run()["machine"]["threads"] == 1
    failed = caught.value.failed
    assert set(failed) == {cells[at].name for at in (3, 5, 6)}
    assert failed[cells[3].name] == "RuntimeError: too bad"
    assert failed[cells[6].name] == "this cannot be"
    for at, attempts in ((3, 2), (5, 2), (6, 1)):
        text = (folder_of(tmp_path / "ray", cells[at]) / "failure.txt").read_text()
        assert [f"attempt {number}, 20" in text for number in (1, 2, 3)] == [number <= attempts for number in (1, 2, 3)]
    assert (folder_of(tmp_path / "ray", cells[4]) / "failure.overcome.txt").exists()
    assert [event.what for event in told if event.cell == good[0]] == ["started", "done"]
