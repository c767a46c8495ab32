"""kill -9 at any moment, then resume: the run equals an undisturbed one bit for bit, whatever its defense remembers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rflbat.defenses.registry import DEFENSES
from tests.engine.durability.experiments import LINES, assert_same, remembering

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are killed in forked processes")

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
KINDS = {"mkdir", "write", "write_text", "fsync", "replace", "unlink"}
"""Events of a run that are known to the test; a run without one of them would not be killed there."""


def killed(tmp_path: Path, job: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Let the killer work; give the folder of the runs and what it counted."""
    draws = tmp_path / "draws.json"
    draws.write_text(json.dumps([{**job, "folder": str(tmp_path / "runs")}]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.durability.killer", str(draws)],
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (told,) = json.loads(draws.with_suffix(".done").read_text())
    assert set(told["events"]) >= KINDS
    return tmp_path / "runs", told


def check_runs(tmp_path: Path, defense: str, **job: Any) -> None:
    folder, told = killed(tmp_path, {"kind": "run", "defense": defense, **job})
    points = [name for name in told["kills"] if name.startswith("at-")]
    assert len(points) == 2 * len(range(job.get("first", 0), len(told["events"]), job["every"]))
    assert all(told["kills"][f"chain-{seed}"] > 0 for seed in range(job.get("chains", 0)))
    for name in told["kills"]:
        assert_same(folder / name, folder / "straight")


def check_sweeps(tmp_path: Path, **job: Any) -> None:
    folder, told = killed(tmp_path, {"kind": "sweep", "defenses": ["fedavg", "foolsgold"], **job})
    cells = sorted((folder / "straight" / "cells").iterdir())
    assert [cell.name for cell in cells] == ["defense=fedavg,seed=0", "defense=foolsgold,seed=0"]
    for name in told["kills"]:
        for cell in cells:
            assert_same(folder / name / "cells" / cell.name, cell)


def test_the_defenses_that_remember_are_known() -> None:
    assert set(remembering()) >= {"foolsgold", "autoencoder"}


def test_foolsgold_killed_at_every_fifth_event(tmp_path: Path) -> None:
    check_runs(tmp_path, "foolsgold", every=5, chains=1, outside=1)


def test_killed_between_the_summary_and_the_release_of_the_lock(tmp_path: Path) -> None:
    check_runs(tmp_path, "fedavg", first=53, every=1)


@pytest.mark.parametrize("defense", [name for name in remembering() if name != "foolsgold"])
def test_every_other_memory_killed_at_some_events(tmp_path: Path, defense: str) -> None:
    check_runs(tmp_path, defense, first=6, every=13)


def test_a_sweep_killed_at_some_events(tmp_path: Path) -> None:
    check_sweeps(tmp_path, first=9, every=31)


@pytest.mark.slow  # half a minute of processor time a defense
@pytest.mark.parametrize("defense", remembering())
def test_every_memory_killed_at_every_event(tmp_path: Path, defense: str) -> None:
    check_runs(tmp_path, defense, every=1, chains=8, outside=8)


@pytest.mark.slow  # seconds a defense
@pytest.mark.parametrize("defense", [name for name in DEFENSES if name not in remembering()])
def test_every_defense_without_a_memory_killed_at_some_events(tmp_path: Path, defense: str) -> None:
    check_runs(tmp_path, defense, first=2, every=7, chains=2, outside=2)


@pytest.mark.slow  # half a minute
def test_a_sweep_killed_at_many_events_and_again_and_again(tmp_path: Path) -> None:
    check_sweeps(tmp_path, every=5, chains=6, outside=4)


@pytest.mark.slow  # a minute
def test_the_killed_command_of_a_sweep_with_workers_goes_on(tmp_path: Path) -> None:
    """The command alone is killed, at a time of its own; its workers end by themselves, and the next one takes over."""
    line = "sweep --grid defense=foolsgold,fedavg --seeds 2 --jobs 2 --clients 9 --rounds 40 --local-steps 2 --quiet"
    words = [*line.split(), *["--batch-size", "7", "--checkpoint-every", "3", "--device", "cpu", "--out"]]
    command = [sys.executable, "-c", "import sys; from rflbat.cli.main import main; sys.exit(main())", *words]
    env = {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*command, str(tmp_path / "straight")], env=env, check=True, timeout=600)
    for wanted in (1, 3):
        with subprocess.Popen([*command, str(tmp_path / "killed")], env=env) as process:
            while len(list(tmp_path.glob("killed/cells/*/rounds.jsonl"))) < wanted and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
    subprocess.run([*command, str(tmp_path / "killed")], env=env, check=True, timeout=600)
    cells = sorted((tmp_path / "straight/cells").iterdir())
    assert len(cells) == 4
    for cell in cells:
        for name in LINES[:2]:
            assert (tmp_path / "killed/cells" / cell.name / name).read_bytes() == (cell / name).read_bytes()
