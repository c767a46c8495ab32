import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import rflbat.sweep.cells
from rflbat import Experiment, Interrupted, UserError, run
from rflbat.round.setup import resolve
from rflbat.simulation import loop
from rflbat.storage.run_folder import RunFolder
from rflbat.sweep.cells import Cell, Event, check_cell, make_cells, run_cell, sweep

GRID = {"defense": ["fedavg", "rflbat"], "malicious": ["0.3", "0.5"]}


def small(**settings):
    return Experiment(
        **{"clients": 9, "rounds": 3, "local_steps": 2, "batch_size": 7, "checkpoint_every": 2, **settings}
    )


def without_seconds(summaries):
    return {
        name: {key: value for key, value in summary.items() if key != "seconds"} for name, summary in summaries.items()
    }


def marks(path):
    """Attributes of every file below a folder that a write would change."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {file: (file.stat().st_mtime_ns, file.stat().st_ino, file.read_bytes()) for file in files}


def interrupt(cell, out, last):
    """Leave a cell's folder as Ctrl-C leaves it."""

    class Stop:
        def on_start(self, run):
            pass

        def on_round(self, record):
            if record["round"] == last:
                raise KeyboardInterrupt

        def on_end(self, summary):
            pass

    with pytest.raises(Interrupted):
        run(cell.experiment, out / "cells" / cell.name, [Stop()])


# Which cells there are.


def test_cells_are_the_product_with_seeds_side_by_side():
    cells = make_cells(small(seed=4), GRID, 2)
    assert [cell.name for cell in cells] == [
        f"defense={defense},malicious={malicious},seed={seed}"
        for defense in ("fedavg", "rflbat")
        for malicious in ("0.3", "0.5")
        for seed in (4, 5)
    ]
    assert cells[5].experiment == small(defense="rflbat", malicious=0.3, seed=5)


def test_no_grid_is_one_cell_a_seed():
    cells = make_cells(small(), {}, 3)
    assert [cell.name for cell in cells] == ["seed=0", "seed=1", "seed=2"]
    assert [cell.experiment for cell in cells] == [small(seed=seed) for seed in range(3)]


def test_parameters_of_defense_and_attack_join_those_of_the_base():
    base = small(defense="rflbat", defense_args={"eps1": 7.0}, attack_args={"share": 0.4})
    grid = {"defense_arg.clusters": ["2", "gap"], "attack_arg.size": [5]}
    cells = make_cells(base, grid, 1)
    assert [cell.name for cell in cells] == [
        "defense_arg.clusters=2,attack_arg.size=5,seed=0",
        "defense_arg.clusters=gap,attack_arg.size=5,seed=0",
    ]
    assert cells[1].experiment.defense_args == {"eps1": 7.0, "clusters": "gap"}
    assert cells[1].experiment.attack_args == {"share": 0.4, "size": 5}
    assert (base.defense_args, base.attack_args) == ({"eps1": 7.0}, {"share": 0.4})


def test_another_defense_leaves_the_base_s_parameters_behind():
    base = small(defense="rflbat", defense_args={"clusters": 3}, attack_args={"size": 5})
    cells = make_cells(base, {"defense": ["rflbat", "fedavg"]}, 1)
    assert [cell.experiment.defense_args for cell in cells] == [{"clusters": 3}, {}]
    assert [cell.experiment.attack_args for cell in cells] == [{"size": 5}] * 2


def test_names_are_fit_for_folders():
    (cell,) = make_cells(small(), {"data_dir": ["/some where/../else:*?"]}, 1)
    assert cell.name == "data_dir=_some_where_.._else___,seed=0"


@pytest.mark.parametrize(
    ("grid", "seeds", "message"),
    [
        ({"defens": ["krum"]}, 1, "the configuration has no parameter 'defens'; did you mean 'defense'?"),
        ({"defense": ["krum", "rflbta"]}, 1, "unknown defense 'rflbta'; did you mean 'rflbat'?"),
        ({"malicious": ["much"]}, 1, "the configuration: malicious='much' is not of type float"),
        ({"malicious": ["1.5"]}, 1, "malicious=1.5 is out of range; allowed: 0 to 1"),
        ({"defense_arg.clusters": ["2"], "defense": ["fedavg"]}, 1, "defense 'fedavg' has no parameter 'clusters'"),
        ({"malicious": ["0.1", "0.1"]}, 1, "the grid contains a cell with the same name twice: malicious=0.1,seed=0;"),
        ({"malicious": ["0.1", "0.10"]}, 1, "the grid contains a cell with the same settings twice: malicious=0.10"),
        ({"seed": [5]}, 1, "the grid must not contain seed"),
        ({}, 0, "seeds=0 is out of range; allowed: at least 1"),
    ],
)
def test_mistakes_show_before_any_work(grid, seeds, message):
    with pytest.raises(UserError) as caught:
        make_cells(small(), grid, seeds)
    assert str(caught.value).startswith(message)


# Behaviour of a sweep.


def test_each_cell_is_the_run_of_its_settings(tmp_path):
    told = []
    summaries = sweep(make_cells(small(), GRID, 2), tmp_path, on_event=told.append)
    cells = make_cells(small(), GRID, 2)
    done = [Event("done", cell, summaries[cell.name]) for cell in cells]
    assert told == [each for event in done for each in (Event("started", event.cell), event)]
    assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == sorted(cell.name for cell in cells)
    alone = {cell.name: run(cell.experiment).summary for cell in cells}
    assert without_seconds(summaries) == without_seconds(alone)
    for cell in cells:
        assert json.loads((tmp_path / "cells" / cell.name / "summary.json").read_text()) == summaries[cell.name]


def test_finished_cells_are_skipped(tmp_path, monkeypatch):
    cells = make_cells(small(), {"defense": ["fedavg", "krum"]}, 1)
    first = sweep(cells, tmp_path)
    before = marks(tmp_path)
    monkeypatch.setattr(rflbat.sweep.cells, "run", None)
    monkeypatch.setattr(rflbat.sweep.cells, "resume", None)
    assert sweep(cells, str(tmp_path)) == first
    assert marks(tmp_path) == before


def test_a_grown_sweep_runs_the_new_cells_alone(tmp_path):
    first = sweep(make_cells(small(), {"defense": ["fedavg"]}, 1), tmp_path)
    before = marks(tmp_path)
    grown = sweep(make_cells(small(), {"defense": ["fedavg", "krum"]}, 2), tmp_path)
    assert len(grown) == 4
    assert {name: grown[name] for name in first} == first
    assert {file: mark for file, mark in marks(tmp_path).items() if file in before} == before


@pytest.mark.parametrize("last", [0, 1])
def test_an_interrupted_cell_goes_on(tmp_path, monkeypatch, last):
    cells = make_cells(small(), {"defense": ["fedavg", "foolsgold"]}, 1)
    expected = sweep(cells, tmp_path / "straight")
    interrupt(cells[1], tmp_path / "stopped", last)
    rounds = []
    original = loop.run_round

    def counting(federation, server):
        rounds.append((federation.defense.name, server.round_number))
        return original(federation, server)

    monkeypatch.setattr(loop, "run_round", counting)
    summaries = sweep(cells, tmp_path / "stopped")
    assert without_seconds(summaries) == without_seconds(expected)
    assert rounds == [("fedavg", n) for n in range(3)] + [("foolsgold", n) for n in range(last + 1, 3)]
    for cell in cells:
        for file in ("rounds.jsonl", "clients.jsonl"):
            one, other = (tmp_path / kind / "cells" / cell.name / file for kind in ("straight", "stopped"))
            assert one.read_bytes() == other.read_bytes()


def test_a_cell_killed_before_its_first_checkpoint_starts_again(tmp_path):
    (cell,) = make_cells(small(), {"defense": ["fedavg"]}, 1)
    expected = sweep([cell], tmp_path / "straight")
    killed = shutil.copytree(tmp_path / "straight", tmp_path / "killed") / "cells" / cell.name
    (killed / "summary.json").unlink()
    (killed / "checkpoint.safetensors").unlink()
    assert without_seconds(sweep([cell], tmp_path / "killed")) == without_seconds(expected)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("other", "named"), [({"lr": 0.2}, "lr"), ({"rounds": 4, "lr": 0.2}, "lr, rounds"), ({"model": None}, None)]
)
def test_a_folder_of_other_settings_is_refused(tmp_path, finished, other, named):
    (cell,) = make_cells(small(model="logistic"), {"defense": ["fedavg"]}, 1)
    if finished:
        sweep([cell], tmp_path)
    else:
        interrupt(cell, tmp_path, 0)
    (changed,) = make_cells(small(**other), {"defense": ["fedavg"]}, 1)
    if named is None:  # the default of the data set is what has run
        assert run_cell(changed, tmp_path)["rounds"] == 3
        return
    before = marks(tmp_path)
    with pytest.raises(UserError, match=rf"holds a run with another {named}; use another --out$"):
        sweep([changed], tmp_path)
    assert marks(tmp_path) == before


@pytest.fixture
def one_thread():
    """As in the processes of a sweep: sums in another order may differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_several_processes_give_the_same_summaries(tmp_path):
    cells = make_cells(small(), {"defense": ["rflbat", "foolsgold"]}, 2)
    told = []
    interrupt(cells[3], tmp_path / "two", 0)
    one, two = sweep(cells, tmp_path / "one"), sweep(cells, tmp_path / "two", 2, told.append)
    assert without_seconds(two) == without_seconds(one)
    assert {event.cell.name: event.summary for event in told if event.what == "done"} == two
    for cell in cells:
        folder = RunFolder.open(tmp_path / "two" / "cells" / cell.name)
        assert folder.rounds() == RunFolder.open(tmp_path / "one" / "cells" / cell.name).rounds()
        assert folder.run()["machine"]["threads"] == 1


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the kernel lists processes in /proc")
def test_workers_end_with_a_killed_sweep(tmp_path):
    """Otherwise they would continue to write into the cells that the next sweep resumes."""
    out = tmp_path / "sweep"
    words = f"sweep --rounds 1000000 --clients 9 --local-steps 1 --seeds 2 --jobs 2 --quiet --out {out}".split()
    script = "import sys; from rflbat.cli.main import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", script, *words], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ) as process:
        wait_for(lambda: len(list(out.glob("cells/*/rounds.jsonl"))) == 2)
        workers = [worker for worker in children(process.pid) if "spawn_main" in command_of(worker)]
        assert len(workers) == 2
        process.kill()
    wait_for(lambda: not any("spawn_main" in command_of(worker) for worker in workers))


def wait_for(condition):
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def children(parent):
    """Processes whose parent is the given one: the field behind the state, which follows the name in brackets."""
    known = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
    return [process for process in known if read(process, "stat").rpartition(")")[2].split()[1:2] == [str(parent)]]


def command_of(process):
    """Empty for a process that is gone or waits to be reaped."""
    return read(process, "cmdline")


def read(process, name):
    try:
        return Path(f"/proc/{process}/{name}").read_text()
    except OSError:
        return ""


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"target": ["0", "10"]}, "target=10 is not a label of digits"),
        ({"clients": ["9", "1443"]}, "at most 1442"),
        ({"partition": ["iid", "natural"]}, "who wrote"),
    ],
)
def test_a_cell_that_does_not_fit_the_data_is_told_before_any_runs(tmp_path, grid, message):
    with pytest.raises(UserError, match=message):
        sweep(make_cells(small(), grid, 1), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("jobs", [0, -1])
def test_jobs_out_of_range_are_refused(tmp_path, jobs):
    with pytest.raises(UserError, match=rf"^jobs={jobs} is out of range; allowed: at least 1$"):
        sweep(make_cells(small(), {}, 1), tmp_path, jobs=jobs)
    assert list(tmp_path.iterdir()) == []


def test_a_cell_of_0_1_is_known_by_the_settings_that_it_has(tmp_path):
    (cell,) = make_cells(small(model="logistic"), {"defense": ["fedavg"]}, 1)
    sweep([cell], tmp_path)
    path = tmp_path / "cells" / cell.name / "run.json"
    description = json.loads(path.read_text())
    del description["config"]["optimizer"], description["config"]["clip_norm"], description["config"]["drop_last"]
    path.write_text(json.dumps(description))
    before = marks(tmp_path)
    assert run_cell(cell, tmp_path)["rounds"] == 3
    assert marks(tmp_path) == before


@pytest.mark.parametrize(
    ("dataset", "said"), [("femnist", "holds a run with another dataset_args"), ("amazon", "had other test texts")]
)
def test_a_cell_of_0_1_on_other_data_is_refused(tmp_path, dataset, said, monkeypatch):
    """0.1 fed FEMNIST inverted and chose other test texts of amazon: one table would hold both."""
    monkeypatch.setattr("rflbat.sweep.cells.check_data", lambda experiment: None)
    cell = Cell("old", Experiment(dataset=dataset))
    config = resolve(cell.experiment).to_dict()
    path = tmp_path / "cells" / "old"
    path.mkdir(parents=True)
    del config["optimizer"], config["clip_norm"], config["drop_last"]
    (path / "run.json").write_text(json.dumps({"config": config}))
    with pytest.raises(UserError, match=said):
        check_cell(cell, tmp_path)
