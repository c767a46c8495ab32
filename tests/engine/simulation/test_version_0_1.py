"""Run folders that version 0.1 wrote still open: a stopped one continues, a finished one is read and reported.

``version_0_1/stopped`` is a run of 4 rounds that was interrupted after 2, ``version_0_1/straight`` the same run without
the interruption; its checkpoint is left out.
"""

import json
import shutil
from pathlib import Path

import pytest

from rflbat import resume
from rflbat.cli.main import main
from rflbat.simulation.loop import recorded
from rflbat.storage.run_folder import RunFolder

WRITTEN = Path(__file__).with_name("version_0_1")


def lines(path: Path, *keys: str) -> list[list[object]]:
    return [[json.loads(line)[key] for key in keys] for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_stopped_run_continues_as_version_0_1_would_have(tmp_path: Path) -> None:
    folder = shutil.copytree(WRITTEN / "stopped", tmp_path / "run")
    result = resume(folder)
    assert result.summary["rounds"] == 4
    for name, keys in (
        ("rounds.jsonl", ("round", "kept", "malicious", "recall")),
        ("clients.jsonl", ("client", "kept")),
    ):
        assert lines(folder / name, *keys) == lines(WRITTEN / "straight" / name, *keys)
    straight = json.loads((WRITTEN / "straight/summary.json").read_text(encoding="utf-8"))
    for key in ("accuracy", "attack_success_rate"):
        assert result.summary[key] == pytest.approx(straight[key], abs=0.01)


def test_its_settings_are_read() -> None:
    experiment = recorded(RunFolder.open(WRITTEN / "straight").run())
    assert (experiment.defense, experiment.clients, experiment.optimizer) == ("foolsgold", 2, "sgd")


def test_a_finished_run_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(WRITTEN / "straight", tmp_path / "run")
    assert main(["report", str(folder)]) == 0
    assert "foolsgold" in capsys.readouterr().out
    assert (folder / "figures").is_dir()
