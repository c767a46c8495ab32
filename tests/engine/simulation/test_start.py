"""Starts from files and run folders: what they may hold, when they are read, and what the export writes."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rflbat import Experiment, UserError, resume, run
from rflbat.cli.main import main
from rflbat.models import from_module
from rflbat.models.registry import make_model
from rflbat.round.start import digest_of, read_start
from rflbat.simulation.callbacks import CallbackBase
from rflbat.simulation.export import export
from rflbat.simulation.loop import Interrupted
from rflbat.sweep.cells import make_cells, sweep

SMALL = {"clients": 8, "rounds": 3, "local_steps": 2, "batch_size": 9, "defense": "fedavg", "device": "cpu"}
FINISHED_0_1 = Path(__file__).parent / "version_0_1/straight"


class StopAfter(CallbackBase):
    def __init__(self, last):
        self.last = last

    def on_start(self, description):
        if self.last < 0:
            raise KeyboardInterrupt

    def on_round(self, record):
        if record["round"] == self.last:
            raise KeyboardInterrupt


def fitting(seed=0):
    drawn = torch.Generator().manual_seed(seed)
    return {"weight": torch.randn(10, 784, generator=drawn) / 10, "bias": torch.zeros(10)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "start.safetensors"
    save_file(fitting(), path)
    return path


def settings(start, **changed):
    return Experiment(**{**SMALL, "start": str(start), **changed})


class Net(nn.Module):
    """Batch normalisation and a frozen layer."""

    def __init__(self, seed=0):
        super().__init__()
        self.trunk, self.norm, self.out = nn.Linear(784, 6), nn.BatchNorm1d(6), nn.Linear(6, 10)
        drawn = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.trunk.weight.copy_(torch.randn(6, 784, generator=drawn))
        self.trunk.requires_grad_(False)

    def forward(self, x):
        return self.out(self.norm(self.trunk(x.flatten(1))).relu())


def test_the_state_dict_of_a_module_starts_its_model(tmp_path):
    """With counters of int64, running statistics, and frozen parameters in another precision."""
    model, module = from_module(Net), Net()
    module.load_state_dict({**module.state_dict(), **{key: value.clone() for key, value in model.constants.items()}})
    with torch.no_grad():
        module.out.weight.fill_(0.25)
        module.norm.running_mean.fill_(3.0)
        module.norm.num_batches_tracked.fill_(7)
    state = {**module.state_dict(), "trunk.weight": module.trunk.weight.double()}
    save_file(state, tmp_path / "net.safetensors")
    named = model.layout.views(read_start(tmp_path / "net.safetensors", model))
    assert (named["out.weight"] == 0.25).all()
    assert (named["norm.running_mean"] == 3).all()
    assert float(named["norm.num_batches_tracked"]) == 7
    state["trunk.weight"] = state["trunk.weight"] + 1
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match=r"'trunk.weight' is frozen in the model, with other values"):
        read_start(tmp_path / "net.safetensors", model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32])
def test_real_types_become_float32(dtype, tmp_path):
    named = {name: (4 * value).to(dtype) for name, value in fitting().items()}
    save_file(named, tmp_path / "start.safetensors")
    model = make_model("logistic", (1, 28, 28), 10)
    params_D = read_start(tmp_path / "start.safetensors", model)
    assert params_D.dtype == torch.float32
    assert torch.equal(model.layout.views(params_D)["weight"], named["weight"].to(torch.float32))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bias": torch.zeros(10, dtype=torch.complex64)}, r"'bias' is of type torch.complex64; allowed"),
        ({"bias": torch.zeros(10, dtype=torch.bool)}, r"'bias' is of type torch.bool; allowed"),
        ({"bias": torch.full((10,), 1e300, dtype=torch.float64)}, "a NaN or an infinity as float32"),
        ({"bais": torch.zeros(10)}, "the model has no parameter 'bais'; did you mean 'bias'"),
    ],
)
def test_a_start_that_does_not_fit_is_refused_before_a_folder_is_made(changed, message, file, tmp_path):
    save_file({**fitting(), **changed}, file)
    with pytest.raises(UserError, match=message):
        run(settings(file), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_pipe_is_refused_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="there is no such file or run folder"):
        run(settings(tmp_path / "pipe"))
    with pytest.raises(UserError, match="cannot be read"):
        digest_of(tmp_path / "pipe")


@pytest.mark.parametrize("cut", [0, 7, 40, 200, 20_000])
def test_a_cut_file_is_refused(cut, file):
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UserError, match="not a readable safetensors file"):
        run(settings(file))


def test_run_json_names_the_file_absolutely_and_a_resume_finds_it(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = run(settings("start.safetensors"))
    with pytest.raises(Interrupted):
        run(settings("start.safetensors"), tmp_path / "run", [StopAfter(-1)])
    described = json.loads((tmp_path / "run/run.json").read_text())
    assert described["start"] == {"path": str(file), "sha256": digest_of(file)}
    assert described["config"]["start"] == str(file)
    assert described["layout"] == {"weight": [10, 784], "bias": [10]}
    for path in (tmp_path / "run").glob("checkpoint*"):
        path.unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.equal(resume(tmp_path / "run").params, whole.params)


def test_without_a_checkpoint_the_file_must_be_the_recorded_one(file, tmp_path):
    with pytest.raises(Interrupted):
        run(settings(file), tmp_path / "run", [StopAfter(-1)])
    for path in (tmp_path / "run").glob("checkpoint*"):
        path.unlink()
    save_file(fitting(seed=1), file)
    with pytest.raises(UserError, match=r"start.safetensors changed since the run was created \(SHA-256 .*new run"):
        resume(tmp_path / "run")


def test_with_a_checkpoint_the_file_is_not_read_again(file, tmp_path):
    whole = run(settings(file))
    with pytest.raises(Interrupted):
        run(settings(file), tmp_path / "run", [StopAfter(1)])
    file.unlink()
    assert torch.equal(resume(tmp_path / "run").params, whole.params)


def test_a_run_folder_is_read_by_the_names_that_it_records(tmp_path):
    run(Experiment(**SMALL), tmp_path / "run")
    path = tmp_path / "run/run.json"
    described = json.loads(path.read_text())
    started = settings(tmp_path / "run")
    run(started)
    for layout, message in (
        ({"weights": [10, 784], "bias": [10]}, "parameter 'weight' is missing; did you mean 'weights'"),
        ({"weight": [784, 10], "bias": [10]}, r"'weight' has the shape \(784, 10\); expected \(10, 784\)"),
        ({"weight": [10, 784]}, "has 7850 parameters, but this run's has 7840"),
        ({"weight": [10, -784]}, "damaged run.json: layout: 'weight' has the shape"),
        ({"weight": "many"}, "damaged run.json: layout: 'weight' has the shape"),
        ([1], "damaged run.json: layout is no table"),
    ):
        path.write_text(json.dumps({**described, "layout": layout}))
        with pytest.raises(UserError, match=message):
            run(started)


def test_a_dry_run_names_the_start_and_checks_it(file, capsys):
    words = ["run", "--dry-run", "--clients", "8", "--device", "cpu", "--start", str(file)]
    assert main(words) == 0
    assert f"start: {file}" in capsys.readouterr().out
    save_file({"weight": torch.zeros(10, 784)}, file)
    assert main(words) == 2
    assert "parameter 'bias' is missing" in capsys.readouterr().err


def test_a_sweep_checks_the_start_of_every_cell_that_has_not_begun(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(fitting(seed=1), "other.safetensors")
    base = Experiment(**{**SMALL, "rounds": 1})
    cells = make_cells(base, {"start": ["start.safetensors", "other.safetensors"]}, 1)
    Path("other.safetensors").rename("hidden")
    with pytest.raises(UserError, match="no such file or run folder"):
        sweep(cells, "sweep")
    assert not (tmp_path / "sweep/cells").exists()
    Path("hidden").rename("other.safetensors")
    first = sweep(cells, "sweep")
    for name in ("start.safetensors", "other.safetensors"):
        Path(name).unlink()
    assert sweep(cells, "sweep") == first
    recorded = [json.loads(path.read_text())["config"]["start"] for path in Path("sweep/cells").glob("*/run.json")]
    assert sorted(recorded) == sorted(str(tmp_path / name) for name in ("start.safetensors", "other.safetensors"))


def test_an_export_is_the_global_model_by_name(tmp_path, capsys):
    result = run(Experiment(**SMALL), tmp_path / "run")
    target = tmp_path / "model.safetensors"
    assert main(["export", str(tmp_path / "run"), str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    named = load_file(target)
    assert torch.equal(torch.cat([named["weight"].flatten(), named["bias"]]), result.params)
    before = target.read_bytes()
    assert main(["export", str(tmp_path / "run"), str(target)]) == 2
    assert "exists; choose another file" in capsys.readouterr().err
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "run"]


def test_an_export_needs_neither_the_data_nor_the_model(tmp_path):
    """The layout of run.json is enough, so a run can be exported where its data set is missing."""
    result = run(Experiment(**SMALL), tmp_path / "run")
    path = tmp_path / "run/run.json"
    described = json.loads(path.read_text())
    described["config"] |= {"dataset": "nowhere:data", "model": "nowhere:model"}
    path.write_text(json.dumps(described))
    named = load_file(export(tmp_path / "run", tmp_path / "model.safetensors"))
    assert torch.equal(named["weight"].flatten(), result.params[:7840])


def test_a_run_without_a_recorded_layout_is_exported_by_its_settings(tmp_path):
    run(Experiment(**SMALL), tmp_path / "run")
    path = tmp_path / "run/run.json"
    described = json.loads(path.read_text())
    del described["layout"]
    path.write_text(json.dumps(described))
    assert set(load_file(export(tmp_path / "run", tmp_path / "model.safetensors"))) == {"weight", "bias"}
    run(settings(tmp_path / "run"))
    shutil.copytree(FINISHED_0_1, tmp_path / "old")
    with pytest.raises(UserError, match="the run folder holds no checkpoint yet"):
        export(tmp_path / "old", tmp_path / "old.safetensors")


@pytest.mark.parametrize("where", ["missing/model.safetensors", "run/run.json/model.safetensors"])
def test_an_export_that_cannot_be_written_is_one_line(where, tmp_path, capsys):
    run(Experiment(**{**SMALL, "rounds": 1}), tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / where)]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "cannot be written" in line
