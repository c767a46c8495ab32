"""`rflbat run --dry-run`: says how it would run and what memory a round takes, and does nothing."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from rflbat.cli.dry_run import plan_run, show_plan
from rflbat.cli.main import main
from rflbat.experiment.config import Experiment
from rflbat.round.memory import readable, round_memory
from rflbat.round.setup import build
from rflbat.simulation import loop
from tests.engine.cli.conftest import Call, Mistake, everything

SETTINGS = {"clients": 7, "rounds": 3, "local_steps": 2, "batch_size": 9, "seed": 5}
LINE = "run smoke --clients 7 --rounds 3 --local-steps 2 --batch-size 9 --seed 5 --dry-run"
PARTS = (
    *("data set", "global model", "updates", "draws", "defense state"),
    *("training", "defense", "evaluation"),
)


@pytest.fixture(autouse=True)
def _no_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_round(*arguments: object) -> None:
        raise AssertionError("a round was run")

    monkeypatch.setattr(loop, "run_round", run_round)


def test_it_prints_plain_lines_and_leaves_nothing(call: Call, tmp_path: Path) -> None:
    status, out, err = call(LINE)
    assert (status, err) == (0, "")
    assert everything(tmp_path) == set()
    said = dict(line.split(": ", 1) for line in out.replace("memory: ", "memory, ").splitlines())
    assert said["clients"] == "7 of 7 a round, for 3 rounds of 2 steps with batches of 9"
    assert said["model"] == "logistic, 7850 parameters"
    assert said["device"] in {"cpu", "cuda"}
    assert re.fullmatch(r"analytic \(.+\)", said["back end"])
    assert re.fullmatch(r"7 clients at a time, \d+ of these chunks at once", said["chunk"])
    assert [name.removeprefix("memory, ") for name in said if name.startswith("memory, ")] == list(PARTS)
    assert said["memory, updates"] == f"{readable(7 * 7850 * 4)}, always held"


@pytest.mark.parametrize("more", ["--chunk 3 --backend vmap", "--defense autoencoder", "--shadow krum --backend loop"])
def test_it_prints_what_would_be_chosen(more: str, call: Call) -> None:
    """The sum is that of the memory model of the very federation that `run` would build."""
    words = more.replace("--", "").split()
    settings: dict[str, str] = dict(zip(words[::2], words[1::2], strict=True))
    federation = build(Experiment(**SETTINGS, malicious=0.5).changed(settings))  # type: ignore[arg-type]
    status, out, _ = call(f"{LINE} {more}")
    assert status == 0
    assert f"back end: {federation.backend.name} ({federation.backend.reason})" in out
    assert f"chunk: {federation.backend.chunk} clients at a time, {federation.backend.workers} of" in out
    assert f"memory of a round: {readable(round_memory(federation).peak)}: " in out
    assert ("shadows: krum" in out) == ("shadow" in more)
    assert ("memory: warm-up rounds: 6.0 MiB, in turn" in out) == ("autoencoder" in more)  # 200 updates: 800 D bytes


def test_a_terminal_gets_a_table() -> None:
    rows = plan_run(Experiment(**SETTINGS, dataset="digits"))  # type: ignore[arg-type]
    file = io.StringIO()
    show_plan(Console(file=file, force_terminal=True, width=120, color_system=None), rows)
    lines = file.getvalue().splitlines()
    assert len(lines) == len(rows)
    assert len({line.index(how) for line, (_, how) in zip(lines, rows, strict=True)}) == 1


def test_the_largest_phase_is_added_to_what_is_resident() -> None:
    parts = round_memory(build(Experiment(**SETTINGS, dataset="digits")))  # type: ignore[arg-type]
    assert parts.peak == sum(parts.resident.values()) + max(parts.phases.values())
    assert (*parts.resident, *parts.phases) == PARTS


def test_help_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "--dry-run" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--defense krumm", "--chunk 3 --backend loop", "--clients 0"])
def test_a_mistake_is_one_here_too(flag: str, mistake: Mistake) -> None:
    mistake(f"run --dry-run {flag}")
