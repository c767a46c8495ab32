"""Sweeps through the command line: a grid with seeds, its table, skipped, continued and refused cells."""

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rflbat import Experiment
from rflbat.cli.sweep_display import sweep_display
from rflbat.experiment.recipes import RECIPES, Recipe
from rflbat.simulation import loop
from rflbat.simulation.loop import Interrupted
from rflbat.sweep.cells import Event, make_cells
from tests.engine.cli.conftest import Call, Done, Mistake, succeed
from tests.engine.failing import MODULE

SMALL = "--clients 5 --rounds 1 --local-steps 1 --batch-size 9 --seed 3"
GRID = "--grid defense=fedavg,krum --grid malicious=0.2,0.6 --seeds 2 --jobs 1"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Done:
    done = succeed(tmp_path_factory.mktemp("swept"), f"sweep {SMALL} {GRID} --out all")
    return Done(done.path / "all", done.out)


def load(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def test_sweep_runs_every_cell(swept: Done) -> None:
    cells = {path.name: load(path / "run.json")["config"] for path in (swept.path / "cells").iterdir()}
    names = [(name, share, seed) for name in ("fedavg", "krum") for share in (0.2, 0.6) for seed in (3, 4)]
    assert set(cells) == {f"defense={name},malicious={share},seed={seed}" for name, share, seed in names}
    for name, config in cells.items():
        assert name == ",".join(f"{key}={config[key]}" for key in ("defense", "malicious", "seed"))
        assert (config["clients"], config["rounds"]) == (5, 1)


def test_sweep_averages_over_seeds(swept: Done) -> None:
    with open(swept.path / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    settings = [("fedavg", "0.2", "2"), ("krum", "0.2", "2"), ("fedavg", "0.6", "2"), ("krum", "0.6", "2")]
    assert [(row["defense"], row["malicious"], row["seeds"]) for row in rows] == settings
    for row in rows:
        cells = (swept.path / "cells").glob(f"defense={row['defense']},malicious={row['malicious']},*")
        values = [load(cell / "summary.json")["accuracy"] for cell in cells]
        assert float(row["accuracy_mean"]) == pytest.approx(sum(values) / 2)
    assert (swept.path / "table.md").read_text().count("\n| ") == 6
    assert (swept.path / "figures/sweep.png").is_file()


def test_sweep_prints_a_line_for_each_cell(swept: Done) -> None:
    assert re.findall(r"^cell (\d)/8  defense=\w+,malicious=0\.\d,seed=\d  ", swept.out, re.MULTILINE) == [*"12345678"]
    assert "\x1b" not in swept.out
    assert all(f"\nall/{name}\n" in swept.out for name in ("table.csv", "table.md", "figures/sweep.png"))


def test_sweep_runs_nothing_twice(swept: Done, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "run_round", None)
    monkeypatch.chdir(swept.path.parent)
    assert call(f"sweep {SMALL} {GRID} --out all --quiet") == (0, "", "")


def test_sweep_refuses_the_folder_of_another(swept: Done, mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(swept.path.parent)
    said = mistake(f"sweep {SMALL} {GRID} --out all --lr 0.2")
    assert "defense=fedavg,malicious=0.2,seed=3 holds a run with another lr;" in said


def test_report_names_unfinished_cells(swept: Done, call: Call, tmp_path: Path) -> None:
    names = [f"defense={name},malicious=0.2,seed=3" for name in ("fedavg", "krum")]
    for name in names:
        shutil.copytree(swept.path / "cells" / name, tmp_path / "some/cells" / name)
    (tmp_path / "some/cells" / names[1] / "summary.json").unlink()
    status, out, err = call("report some")
    assert (status, err) == (0, "")
    assert f"\nunfinished: {names[1]}\n" in out
    assert (tmp_path / "some/table.csv").read_text().count("\n") == 2


def test_sweep_goes_on_after_ctrl_c(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    line = f"sweep {SMALL} --rounds 2 --grid malicious=0.2,0.6 --out half --quiet"
    real = loop.run_round

    def stopping(federation: Any, server: Any) -> Any:
        if (federation.experiment.malicious, server.round_number) == (0.6, 1):
            raise KeyboardInterrupt
        return real(federation, server)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run_round", stopping)
        status, out, err = call(line)
    assert (status, out, err.count("\n")) == (130, "", 1)
    cells = [tmp_path / f"half/cells/malicious={share},seed=3" for share in (0.2, 0.6)]
    assert [(cell / "summary.json").exists() for cell in cells] == [True, False]
    assert call(line) == (0, "", "")
    assert [(cell / "rounds.jsonl").read_text().count("\n") for cell in cells] == [2, 2]


def test_parameters_stay_with_their_defense(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = {"clients": 5, "rounds": 1, "local_steps": 1, "batch_size": 9, "defense_args": {"eps1": 9.0}}
    monkeypatch.setitem(RECIPES, "mine", Recipe("", mine))
    assert call("sweep mine --grid defense=rflbat,fedavg --out two --quiet") == (0, "", "")
    configs = [load(path / "run.json")["config"] for path in (tmp_path / "two/cells").iterdir()]
    assert {c["defense"]: c["defense_args"] for c in configs} == {"rflbat": {"eps1": 9.0}, "fedavg": {}}


def test_parameters_in_the_grid(call: Call, tmp_path: Path) -> None:
    line = f"sweep {SMALL} --grid defense_arg.clusters=2,3 --grid attack-arg.size=4 --out args --quiet"
    assert call(line) == (0, "", "")
    configs = [load(path / "run.json")["config"] for path in sorted((tmp_path / "args/cells").iterdir())]
    assert [c["defense_args"] for c in configs] == [{"clusters": 2}, {"clusters": 3}]
    assert [c["attack_args"] for c in configs] == [{"size": 4}] * 2


def test_an_interrupt_crosses_from_a_worker_process() -> None:
    stop = Interrupted(Path("here"), 2)
    make, arguments = stop.__reduce__()[:2]
    again = make(*arguments)
    assert (str(again), again.folder, again.rounds) == (str(stop), stop.folder, stop.rounds)


def test_failed_cells_are_told_of_behind_the_report_of_the_others(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "failing_of_the_command.py").write_text(MODULE)
    name = "failing_of_the_command:always"
    status, out, err = call(f"sweep {SMALL} --rounds 3 --grid defense={name},fedavg --out some")
    cell = f"defense={name.replace(':', '_')},seed=3"
    assert status == 1
    assert err == (
        f"rflbat: 1 of 2 cells failed ({cell}: RuntimeError: too bad); rerun the command to retry them; "
        "see some/cells/NAME/failure.txt\n"
    )
    assert f"failed, runs again  {cell}  RuntimeError: too bad\ncell 1/2  defense=fedavg,seed=3  accuracy" in out
    assert f"\nfailed  {cell}  RuntimeError: too bad\n" in out
    assert f"\nunfinished: {cell}\n" in out
    assert (tmp_path / "some/cells" / cell / "failure.txt").is_file()
    assert (tmp_path / "some/table.csv").read_text().count("\n") == 2
    (tmp_path / "alone").mkdir()
    status, out, err = call(f"sweep {SMALL} --rounds 3 --grid defense={name} --out alone --quiet")
    assert (status, out) == (1, "")
    assert err.startswith(f"rflbat: 1 of 1 cells failed ({cell}: RuntimeError: too bad);")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--launcher slurm", "unknown launcher 'slurm'"),
        ("--jobs 0", "jobs=0 is out of range"),
        ("--gpus-per-cell 0.5", "gpus_per_cell=0.5 needs launcher 'ray'"),
        ("--launcher ray --jobs 2", "jobs=2 needs launcher 'local'"),
    ],
)
def test_launchers_and_their_numbers_are_checked_before_any_work(flags: str, said: str, mistake: Mistake) -> None:
    assert said in mistake(f"sweep --out some {flags}")


def test_a_terminal_counts_cells_done_running_and_failed() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    cells = make_cells(Experiment(), {}, 3)
    rates = {"accuracy": 0.5, "attack_success_rate": 0.25}
    with sweep_display(console, 3, quiet=False) as tell:
        for event in (
            Event("started", cells[0]),
            Event("started", cells[1]),
            Event("done", cells[0], summary=rates),
            Event("again", cells[1], error="RuntimeError: [bold]"),
            Event("started", cells[1]),
            Event("started", cells[2]),
            Event("failed", cells[1], error="RuntimeError: [bold]"),
        ):
            tell(event)
    last = screen.getvalue().rpartition("cells: ")[2]
    assert last.startswith("1/3 done, 1 running, 1 failed")
    assert "cell 1/3  seed=0  accuracy 0.500  attack 0.250" in screen.getvalue()
    assert "failed, runs again  seed=1  RuntimeError: [bold]" in screen.getvalue()
    assert "\x1b[?25h" in screen.getvalue()  # the cursor is back
