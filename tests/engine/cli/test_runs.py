"""Whole runs through the command line: the run folder, what is printed, report, resume and Ctrl-C."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from rflbat.experiment.config import Experiment
from rflbat.simulation import loop
from rflbat.storage.tensors import load_tensors
from tests.engine.cli.conftest import Call, Done, everything, succeed

SMALL = "--clients 7 --rounds 3 --local-steps 2 --batch-size 9 --malicious 0.4 --seed 5"
RATES = {"accuracy", "attack_success_rate", "attack_success_rate_inclusive"}
DETECTION = {"precision", "recall", "false_positive_rate", "malicious_weight"}
COUNTS = {"kept", "dropped", "malicious", "nonfinite", "stages"}
ROUND = {"round", "nobody_kept", "move_discarded", *COUNTS, *RATES, *DETECTION}
CLIENT = {"round", "client", "malicious", "kept", "stage", "weight", "score", "coordinates", "cluster", "samples"}
FILES = {
    "run.json",
    "rounds.jsonl",
    "clients.jsonl",
    "timings.jsonl",
    "summary.json",
    "report.html",
    "checkpoint.safetensors",
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Done:
    done = succeed(tmp_path_factory.mktemp("straight"), f"run {SMALL}")
    return Done(done.path / "runs/digits-rflbat-5", done.out)


@pytest.fixture
def copy(straight: Done, tmp_path: Path) -> Path:
    return Path(shutil.copytree(straight.path, tmp_path / "copy"))


def load(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_run_writes_every_file(straight: Done) -> None:
    names = {str(path.relative_to(straight.path)) for path in everything(straight.path) if path.is_file()}
    pictures = {name for name in names if name.startswith("figures/")}
    assert names - pictures == FILES
    assert len(pictures) == 5
    assert all((straight.path / name).read_bytes().startswith(b"\x89PNG\r\n") for name in pictures)
    tensors, meta = load_tensors(straight.path / "checkpoint.safetensors")
    assert (tensors["params_D"].shape, meta["round"]) == ((7850,), 3)


def test_run_json_holds_what_was_resolved(straight: Done) -> None:
    run = load(straight.path / "run.json")
    assert {"config", "versions", "machine", "device", "kernels", "backend", "sizes", "stages", "started"} <= set(run)
    assert set(run["config"]) == {item.name for item in fields(Experiment)}
    asked = {"rounds": 3, "clients": 7, "malicious": 0.4, "seed": 5, "batch_size": 9, "defense": "rflbat"}
    resolved = {"participants": 7, "model": "logistic", "data_dir": None}
    assert run["config"] | asked | resolved == run["config"]
    assert (run["clients"], run["sizes"]) == (7, [206] * 7)
    assert run["stages"] == ["kept", "nonfinite", "filter1", "cluster", "filter2"]
    assert set(run["backend"]) == {"name", "chunk", "workers", "reason"}
    assert run["config"]["device"] in {"cpu", "cuda"}
    assert datetime.fromisoformat(run["started"]).tzinfo is not None


def test_lines_hold_the_documented_schema(straight: Done) -> None:
    rounds, clients = lines(straight.path / "rounds.jsonl"), lines(straight.path / "clients.jsonl")
    assert [row["round"] for row in rounds] == [0, 1, 2]
    for row in rounds:
        own = [client for client in clients if client["round"] == row["round"]]
        assert set(row) == ROUND
        assert [client["client"] for client in own] == list(range(7))
        assert row["kept"] == sum(client["kept"] for client in own)
        assert row["dropped"] == 7 - row["kept"] == sum(row["stages"].values())
        assert row["malicious"] == sum(client["malicious"] for client in own) == 3
        assert sum(client["weight"] for client in own) == pytest.approx(1)
        assert all(0 <= row[name] <= 1 for name in RATES)
    for client in clients:
        assert set(client) == CLIENT
        assert (client["stage"] == "kept") == client["kept"] == (client["weight"] > 0)
        assert (len(client["coordinates"]), client["samples"]) == (2, 206)


def test_summary_is_that_of_the_last_round(straight: Done) -> None:
    rounds, timings = lines(straight.path / "rounds.jsonl"), lines(straight.path / "timings.jsonl")
    summary = load(straight.path / "summary.json")
    assert RATES | DETECTION | {"rounds", "seconds", "defense", "dataset"} <= set(summary)
    assert {name: summary[name] for name in RATES} == {name: rounds[-1][name] for name in RATES}
    assert (summary["rounds"], summary["defense"], summary["dataset"]) == (3, "rflbat", "digits")
    assert summary["malicious_weight"] == pytest.approx(sum(row["malicious_weight"] for row in rounds) / 3)
    assert [set(row) for row in timings] == [{"round", "seconds", "memory"}] * 3
    assert summary["seconds"] == pytest.approx(sum(row["seconds"] for row in timings))


def test_run_prints_plain_lines_where_there_is_no_terminal(straight: Done) -> None:
    assert "\x1b" not in straight.out
    assert "\r" not in straight.out
    shown = [line for line in straight.out.splitlines() if line.startswith("round ")]
    assert [line.split()[1] for line in shown] == ["1/3", "2/3", "3/3"]
    assert all(re.search(r"accuracy \d+\.\d %  attack success \d+\.\d %  kept \d dropped \d", line) for line in shown)
    assert "\nrun folder: runs/digits-rflbat-5\n" in straight.out
    assert "\n  runs/digits-rflbat-5/figures/accuracy_and_attack.png\n" in straight.out


def test_report_draws_again(copy: Path, straight: Done, call: Call) -> None:
    shutil.rmtree(copy / "figures")
    status, out, err = call("report copy")
    assert (status, err) == (0, "")
    assert "\nrun folder: copy\n" in out
    assert {path.name for path in (copy / "figures").iterdir()} == {
        path.name for path in (straight.path / "figures").iterdir()
    }


def test_resume_of_a_finished_run_changes_nothing(copy: Path, call: Call) -> None:
    before = {name: (copy / name).read_bytes() for name in FILES}
    assert call("resume copy --quiet") == (0, "", "")
    assert {name: (copy / name).read_bytes() for name in FILES} == before


def test_second_run_gets_a_folder_of_its_own_and_quiet_prints_nothing(call: Call, tmp_path: Path) -> None:
    for _ in range(2):
        assert call("run --clients 3 --rounds 1 --local-steps 1 --defense fedavg --seed 6 --quiet") == (0, "", "")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"digits-fedavg-6", "digits-fedavg-6-2"}


@pytest.mark.parametrize("folder", ["stopped", "two words"])
def test_the_command_shown_after_ctrl_c_finishes_the_run(
    folder: str, straight: Done, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.run_round

    def stopping(federation: Any, server: Any) -> Any:
        if server.round_number == 2:
            raise KeyboardInterrupt
        return real(federation, server)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run_round", stopping)
        status, out, err = call(f"run {SMALL} --out '{folder}'")
    path = Path(folder)
    assert status == 130
    assert [line.split()[1] for line in out.splitlines() if line.startswith("round ")] == ["1/3", "2/3"]
    assert (path / "checkpoint.safetensors").is_file()
    assert not (path / "summary.json").exists()
    shown = re.fullmatch(r"rflbat: interrupted after 2 rounds; continue with `rflbat (resume .*)`\n", err)
    assert shown, err
    assert shlex.split(shown[1]) == ["resume", folder]
    assert call(f"{shown[1]} --quiet") == (0, "", "")
    for name in ("rounds.jsonl", "clients.jsonl"):
        assert (path / name).read_bytes() == (straight.path / name).read_bytes()
    summaries = [load(run / "summary.json") | {"seconds": 0} for run in (path, straight.path)]
    assert summaries[0] == summaries[1]
    assert len(list((path / "figures").iterdir())) == 5


def test_ctrl_c_while_data_are_read(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def build(experiment: Experiment) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "build", build)
    try:
        status, out, err = call(f"run {SMALL}")
    except KeyboardInterrupt:  # it would stop pytest
        pytest.fail("Ctrl-C before the first round ends in a traceback")
    assert (status, out, err.count("\n")) == (130, "", 1)
    assert everything(tmp_path) == set()


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send SIGINT to one process")
def test_exit_status_of_ctrl_c() -> None:
    # A process that was started in the background inherits a SIGINT that is ignored.
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    script = f"import signal, sys; {heard}; from rflbat.cli.main import main; sys.exit(main())"
    line = f"run {SMALL} --rounds 1000000 --device cpu --out long"
    with subprocess.Popen(
        [sys.executable, "-c", script, *line.split()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        settings, first = process.stdout.readline(), process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert settings.startswith("dataset=digits, ")
    assert first.startswith("round 1/1000000 ")
    assert (process.returncode, err.count("\n")) == (130, 1)
    assert "`rflbat resume long`" in err
