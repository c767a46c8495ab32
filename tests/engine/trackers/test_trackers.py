"""Every tracker against the real package, offline; and what happens when one fails."""

import logging
import sqlite3
import time

import pytest

from rflbat.errors import UserError
from rflbat.experiment.config import Experiment
from rflbat.simulation.loop import run
from rflbat.trackers import registry
from rflbat.trackers.base import Sink, Tracking
from rflbat.trackers.registry import TRACKERS, make_tracker

SMALL = Experiment(clients=7, rounds=3, local_steps=1, batch_size=9, defense="rflbat", device="cpu", malicious=0.4)
THEIRS = ["ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"]
"""Warnings of the packages about their own needs are not ours to mend."""


WANTED = (b"attack_success_rate", b"stages/filter1", b"summary/accuracy", b"rflbat")


def theirs(function):
    for line in (*THEIRS, "ignore::pytest.PytestUnraisableExceptionWarning"):
        function = pytest.mark.filterwarnings(line)(function)
    return function


def tracked(name, tmp_path):
    with make_tracker(name, "first", tmp_path) as tracker:
        result = run(SMALL, None, [tracker])
    return result


@theirs
def test_tensorboard_files_hold_every_round(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = tracked("tensorboard", tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("accuracy")]
    assert found == [(record["round"], pytest.approx(record["accuracy"])) for record in result.rounds]
    assert {"stages/filter1", "attack_success_rate", "seconds", "summary/accuracy"} <= set(events.Tags()["scalars"])
    assert "settings/text_summary" in events.Tags()["tensors"]


@theirs
def test_wandb_keeps_the_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    tracked("wandb", tmp_path)
    [stored] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    # W&B's own process writes the file, a moment after the run has ended.
    for _ in range(300):
        missing = [word for word in WANTED if word not in stored.read_bytes()]
        if not missing:
            break
        time.sleep(0.1)
    assert missing == []


@theirs
def test_trackio_keeps_the_run_in_its_folder(tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio")
    from trackio import sqlite_storage

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "store")
    opened = []
    real = trackio.init
    monkeypatch.setattr(trackio, "init", lambda **given: opened.append(given) or real(**given))
    result = tracked("trackio", tmp_path)
    assert opened[0]["config"]["defense"] == "rflbat"
    [database] = (tmp_path / "store").glob("*.db")
    with sqlite3.connect(database) as connection:
        steps = [row[0] for row in connection.execute("SELECT step FROM metrics ORDER BY step")]
    assert steps == [record["round"] for record in result.rounds]


@theirs
def test_mlflow_keeps_the_run_in_its_store(tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking")
    store = (tmp_path / "store").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
    tracking.set_tracking_uri(store)
    result = tracked("mlflow", tmp_path)
    client = tracking.MlflowClient()
    [found] = client.search_runs([client.get_experiment_by_name("rflbat").experiment_id])
    history = client.get_metric_history(found.info.run_id, "accuracy")
    assert [(each.step, each.value) for each in history] == [(r["round"], r["accuracy"]) for r in result.rounds]
    assert found.data.params["defense"] == "rflbat"
    assert (found.info.status, found.info.run_name) == ("FINISHED", "first")


def test_every_tracker_is_tested_against_its_package():
    assert set(TRACKERS) == {"tensorboard", "wandb", "trackio", "mlflow"}


@pytest.mark.parametrize("where", ["open", "log", "finish"])
def test_a_tracker_that_fails_is_told_nothing_more_and_the_run_goes_on(tmp_path, caplog, where):
    told = []

    def step(name, *given):
        told.append(name)
        if name == where:
            raise ConnectionError("no route")

    def open_sink(name, folder, settings):
        step("open")
        return Sink(lambda values, number: step("log"), lambda summary: step("finish"))

    with caplog.at_level(logging.WARNING), Tracking("Mine", open_sink, "first", tmp_path) as tracker:
        result = run(SMALL, None, [tracker])
    assert len(result.rounds) == 3
    assert told == {"open": ["open"], "log": ["open", "log"], "finish": ["open", "log", "log", "log", "finish"]}[where]
    assert [r.getMessage() for r in caplog.records] == ["Mine failed and is switched off; the run continues: no route"]


def test_a_run_that_stops_early_ends_the_tracker_s_run(tmp_path):
    ends = []
    tracker = Tracking("Mine", lambda *_: Sink(lambda *_: None, ends.append), "first", tmp_path)
    with tracker:
        tracker.on_start({"config": {}})
    assert ends == [None]


def test_a_missing_package_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'wandb' needs the package wandb.*rflbat\[track\]"):
        make_tracker("wandb", "first", tmp_path)
