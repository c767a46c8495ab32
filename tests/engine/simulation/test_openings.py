"""Each opening on the embedded digits: training-time attacks, inspecting defenses, transforms, any start."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from rflbat import Experiment, UserError, resume, run
from rflbat.cli.main import main
from rflbat.simulation.export import export
from rflbat.simulation.loop import Interrupted
from tests.engine.simulation.stateful_attack import MovingState

SMALL = {
    **{"dataset": "digits", "clients": 20, "rounds": 6, "malicious": 0.2, "local_steps": 5, "batch_size": 16},
    **{"device": "cpu", "lr": 0.2},
}
OPENINGS = {
    "fedprox": {"local_rule": "fedprox", "defense": "fedavg"},
    "pgd": {"attack_rule": "pgd", "attack_rule_args": {"radius": 0.5}, "defense": "fedavg"},
    "alie": {"attack": "alie", "defense": "fedavg"},
    "label_flip": {"attack": "label_flip", "defense": "fedavg"},
    "fltrust": {"defense": "fltrust"},
    "deepsight": {"defense": "deepsight", "defense_args": {"samples": 200}},
    "flame": {"defense": "flame"},
    "nnm": {"before": "nnm", "defense": "krum"},
    "bucketing": {"before": "bucketing(s=2),clip", "defense": "median"},
    "adam": {"server_optimizer": "adam", "server_lr": 0.03, "defense": "fedavg"},
    "resnet": {"model": "resnet", "model_args": {"width": 4, "norm": "batch"}, "defense": "fedavg", "rounds": 2},
}
LEARNS = {"resnet": 0.0, "alie": 0.3}
"""Accuracy that a run must exceed, where 0.6 is too much to ask."""


@pytest.mark.parametrize("name", OPENINGS)
def test_every_opening_runs(name):
    result = run(Experiment(**{**SMALL, **OPENINGS[name]}))
    assert result.params.isfinite().all()
    assert result.summary["accuracy"] > LEARNS.get(name, 0.6)


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "yogi", "adagrad"])
def test_a_run_with_a_server_optimizer_resumes_as_if_never_stopped(optimizer, tmp_path):
    settings = {**SMALL, "server_optimizer": optimizer, "server_lr": 0.03, "defense": "fedavg", "rounds": 4}
    settings |= {"checkpoint_every": 1, "before": "nnm"}
    assert_resumes(settings, tmp_path)


def assert_resumes(settings, tmp_path):
    whole = run(Experiment(**settings))

    class Stop:
        def on_start(self, description):
            pass

        def on_round(self, record):
            if record["round"] == 1:
                raise KeyboardInterrupt

        def on_end(self, summary):
            pass

    with pytest.raises(Interrupted):
        run(Experiment(**settings), tmp_path / "run", [Stop()])
    continued = resume(tmp_path / "run")
    assert torch.equal(continued.params, whole.params)
    assert continued.rounds == whole.rounds
    return whole


def test_the_state_of_an_attack_is_checkpointed(tmp_path):
    settings = {**SMALL, "attack": "tests.engine.simulation.stateful_attack:moving", "defense": "fedavg", "rounds": 4}
    whole = assert_resumes({**settings, "checkpoint_every": 1}, tmp_path)
    assert MovingState is not None
    still = run(Experiment(**{**SMALL, "defense": "fedavg", "rounds": 4}))
    assert not torch.equal(whole.params, still.params)


def test_an_untargeted_attack_has_no_success_rate(tmp_path, capsys):
    folder = tmp_path / "alie"
    words = ["--attack", "alie", "--clients", "10", "--rounds", "2", "--malicious", "0.2", "--defense", "fedavg"]
    assert main(["run", *words, "--out", str(folder)]) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["attack_success_rate"] is None
    assert summary["accuracy"] > 0
    described = json.loads((folder / "run.json").read_text())
    assert (described["knowledge"], described["success"]) == ("omniscient", "untargeted")
    assert main(["report", str(folder)]) == 0
    grid = ["--grid", "malicious=0,0.2", "--out", str(tmp_path / "sweep"), "--jobs", "1"]
    assert main(["sweep", *words[:-4], "--defense", "fedavg", *grid]) == 0
    assert main(["report", str(tmp_path / "sweep")]) == 0
    header, clean, attacked = (tmp_path / "sweep" / "table.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), row.split(","), strict=True)) for row in (clean, attacked)]
    gap = float(rows[0]["accuracy_mean"]) - float(rows[1]["accuracy_mean"])
    assert rows[0]["accuracy_lost_mean"] == ""
    assert float(rows[1]["accuracy_lost_mean"]) == pytest.approx(gap)


def test_label_flipping_is_measured_by_the_pair(tmp_path):
    settings = {**SMALL, "attack": "label_flip", "attack_args": {"source": 3}, "target": 5, "malicious": 0.9}
    flipped = run(Experiment(**{**settings, "defense": "fedavg"})).summary
    clean = run(Experiment(**{**settings, "defense": "fedavg", "malicious": 0.0})).summary
    assert clean["attack_success_rate"] < 0.2 < 0.5 < flipped["attack_success_rate"]


def test_a_run_starts_where_another_ended(tmp_path):
    clean = run(Experiment(**{**SMALL, "malicious": 0.0, "defense": "fedavg"}), tmp_path / "clean")
    attacked = {**SMALL, "rounds": 1, "local_steps": 1, "lr": 0.001, "defense": "fedavg"}
    warm = run(Experiment(**attacked, start=str(tmp_path / "clean")), tmp_path / "warm")
    cold = run(Experiment(**attacked))
    assert warm.rounds[0]["accuracy"] > cold.rounds[0]["accuracy"] + 0.3
    assert abs(warm.rounds[0]["accuracy"] - clean.rounds[-1]["accuracy"]) < 0.05
    described = json.loads((tmp_path / "warm" / "run.json").read_text())
    assert len(described["start"]["sha256"]) == 64
    file = export(tmp_path / "clean", tmp_path / "clean.safetensors")
    assert set(load_file(file)) == {"weight", "bias"}
    assert torch.equal(run(Experiment(**attacked, start=str(file))).params, warm.params)
    with pytest.raises(UserError, match="exists; choose another file"):
        export(tmp_path / "clean", file)
    assert main(["export", str(tmp_path / "clean"), str(tmp_path / "again.safetensors")]) == 0


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.zeros(10, 784)}, "parameter 'bias' is missing"),
        ({"weight": torch.zeros(10, 784), "bias": torch.zeros(10), "other": torch.zeros(1)}, "no parameter 'other'"),
        ({"weight": torch.zeros(10, 783), "bias": torch.zeros(10)}, "has the shape"),
        ({"weight": torch.zeros(10, 784), "bias": torch.full((10,), torch.nan)}, "a NaN or an infinity"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(tensors, message, tmp_path):
    save_file(tensors, tmp_path / "start.safetensors")
    with pytest.raises(UserError, match=message):
        run(Experiment(**SMALL, start=str(tmp_path / "start.safetensors")))


def test_a_start_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "text").write_text("no tensors")
    for name, message in (("nothing", "no such file or run folder"), ("text", "not a readable safetensors file")):
        with pytest.raises(UserError, match=message):
            run(Experiment(**SMALL, start=str(tmp_path / name)))
