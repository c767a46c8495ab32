"""Ctrl-C once: a checkpoint, the command that resumes, exit status 130; twice: at once, the last checkpoint whole."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rflbat import resume
from rflbat.storage.tensors import load_tensors, save_tensors
from tests.engine.durability.experiments import LINES

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows cannot send SIGINT to one process")

# A process that was started in the background inherits a SIGINT that is ignored.
SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import rflbat.cli.main, rflbat.simulation.checkpoint as checkpoint
real, seconds = checkpoint.save_tensors, float(sys.argv.pop(1))
def slow(path, tensors, meta, previous=None):
    if meta["round"] != 3:
        print("saving", flush=True)
        time.sleep(seconds)
    real(path, tensors, meta, previous)
checkpoint.save_tensors = slow
sys.exit(rflbat.cli.main.main())
"""
LINE = "run --clients 5 --rounds 100000 --local-steps 1 --batch-size 9 --defense foolsgold --checkpoint-every 3"


@contextmanager
def started(folder: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A run that is slow at each checkpoint but the first; it has been asked to stop once."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(seconds), *LINE.split(), "--out", str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            while not process.stdout.readline().startswith("round 4/"):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            yield process
        finally:
            process.kill()


def test_once(tmp_path: Path) -> None:
    with started(tmp_path / "run", 0.0) as process:
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err.count("\n")) == (130, 1)
    assert f"; continue with `rflbat resume {tmp_path / 'run'}`" in err
    number = load_tensors(tmp_path / "run/checkpoint.safetensors")[1]["round"]
    assert f"interrupted after {number} rounds" in err
    assert number > 3


def test_twice(tmp_path: Path) -> None:
    """The second falls into a checkpoint that would take an hour."""
    with started(tmp_path / "run", 3600.0) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "saving\n":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (-signal.SIGINT, "")  # of which a shell makes 130
    assert load_tensors(tmp_path / "run/checkpoint.safetensors")[1]["round"] == 3
    (tmp_path / "run/run.json").write_text((tmp_path / "run/run.json").read_text().replace("100000", "5"))
    resumed = tmp_path / "run/checkpoint.safetensors"
    tensors, meta = load_tensors(resumed)
    save_tensors(resumed, tensors, {**meta, "config": {**meta["config"], "rounds": 5}})
    assert [record["round"] for record in resume(tmp_path / "run").rounds] == list(range(5))
    assert all((tmp_path / "run" / name).exists() for name in LINES[:2])
