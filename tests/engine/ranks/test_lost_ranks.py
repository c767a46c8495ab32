"""A rank that dies, falls silent or is asked to stop: the others end with one line, the last checkpoint is whole."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from rflbat import Experiment, resume, run
from rflbat.cli.main import main
from rflbat.errors import UserError
from rflbat.storage.run_folder import CHECKPOINT, RunFolder
from rflbat.storage.tensors import load_tensors, save_tensors
from tests.engine.ranks.launch import DRIVER, LIMIT, environment, finish, start
from tests.engine.ranks.test_ranks import SMALL, alike

ENDLESS = {**SMALL, "defense": "foolsgold", "rounds": 100_000, "checkpoint_every": 1, "eval_every": 100_000}
LOST = r"another rank exited or stopped responding \(.+\)"
WORDS = [word for name, value in ENDLESS.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def started(folder, processes):
    """Wait until a few rounds are done."""
    deadline = time.monotonic() + LIMIT
    while not (folder / CHECKPOINT).exists() or load_tensors(folder / CHECKPOINT)[1]["round"] < 2:
        assert all(process.poll() is None for process in processes), finish(processes)
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_rank_that_is_killed_ends_the_others(victim, tmp_path):
    folder = tmp_path / "run"
    processes = start(2, ["-m", "rflbat", "run", *WORDS, "--quiet", "--out", str(folder)])
    started(folder, processes)
    with pytest.raises(UserError, match=r"in use by process \d+ on"):
        resume(folder)
    processes[victim].kill()
    told = finish(processes)
    assert told[victim][0] == -signal.SIGKILL
    status, text = told[1 - victim]
    assert status == 1
    last = text.splitlines()[-1]
    who = f"rflbat, rank {1 - victim} of 2: {LOST}"
    assert re.fullmatch(rf"{who}; the last checkpoint is complete, and `rflbat resume` continues from it", last)
    assert "Traceback" not in text

    reached = load_tensors(folder / CHECKPOINT)[1]["round"]
    assert reached >= 2
    shorter(folder, reached + 1)
    resume(folder)
    run(Experiment(**{**ENDLESS, "rounds": reached + 1}), tmp_path / "undisturbed")
    alike(tmp_path / "undisturbed", folder)


def shorter(folder, rounds):
    """Ask for fewer rounds, in run.json and in the checkpoint."""
    described = RunFolder(folder).run()
    described["config"]["rounds"] = rounds
    (folder / "run.json").write_text(json.dumps(described), encoding="utf-8")
    tensors, meta = load_tensors(folder / CHECKPOINT)
    save_tensors(folder / CHECKPOINT, tensors, {**meta, "config": described["config"]})


@pytest.mark.slow
def test_a_rank_that_falls_silent_is_waited_for_no_longer_than_said(tmp_path):
    """A host whose cable is cut closes no connection: only the patience ends."""
    plan, folder = tmp_path / "plan.json", tmp_path / "run"
    plan.write_text(json.dumps({"tasks": [["run", "run", ENDLESS]], "patience": 5}), encoding="utf-8")
    processes = start(2, [str(DRIVER), str(plan)])
    started(folder, processes)
    processes[1].send_signal(signal.SIGSTOP)
    try:
        (status, text), *_ = finish(processes[:1])
    finally:
        processes[1].kill()
        finish(processes[1:])
    assert status == 1
    assert re.search(rf"RankLost: {LOST}", text)
    assert load_tensors(folder / CHECKPOINT)[1]["round"] >= 2


@pytest.mark.slow
def test_torchrun_stops_at_a_signal_and_the_run_goes_on(tmp_path):
    folder = tmp_path / "run"
    launcher = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*launcher, "-m", "rflbat", "run", *WORDS, "--out", str(folder)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started(folder, [process])
    process.send_signal(signal.SIGTERM)
    said, told = process.communicate(timeout=LIMIT)
    reached = load_tensors(folder / CHECKPOINT)[1]["round"]
    assert told.count(f"rflbat, rank 0 of 2: interrupted after {reached} rounds; continue with `rflbat resume") == 1
    assert said.count("dataset=digits") == 1
    assert len(RunFolder(folder).rounds()) == reached
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize(
    ("words", "place", "said"),
    [
        (
            ["sweep"],
            {"RANK": "0", "WORLD_SIZE": "2"},
            "`rflbat sweep` runs in one process; torchrun is for run and resume",
        ),
        (["run"], {"RANK": "2", "WORLD_SIZE": "2"}, "the environment has RANK='2', WORLD_SIZE='2'; allowed"),
        (["run"], {"RANK": "0", "WORLD_SIZE": "many"}, "the environment has RANK='0', WORLD_SIZE='many'; allowed"),
    ],
)
def test_what_cannot_be_shared_is_a_mistake(words, place, said, monkeypatch, capsys):
    for name, value in place.items():
        monkeypatch.setitem(os.environ, name, value)
    assert main(words) == 2
    assert said in capsys.readouterr().err
