"""The tutorial that takes a user's module and data set to an attacked run, run as it stands."""

import shlex
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rflbat import Experiment, run
from rflbat.cli.main import main
from tests.engine.test_registry import code_of, commands_of


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(code_of("own_module.md"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)


@pytest.mark.usefixtures("mine")
def test_the_command_of_the_tutorial_runs() -> None:
    (words,) = [words for words in commands_of("own_module.md") if words[:2] == ["rflbat", "run"]]
    assert main([*words[1:], "--rounds", "2", "--quiet", "--out", "run"]) == 0, shlex.join(words)


@pytest.mark.usefixtures("mine")
def test_the_module_learns_and_the_attack_works() -> None:
    settings = {"dataset": "mine:stripes", "attack": "pixel", "clients": 10, "rounds": 6, "batch_size": 20}
    result = run(Experiment(**settings, malicious=0.3, defense="fedavg", device="cpu"))
    assert result.summary["accuracy"] > 0.9
    assert result.summary["attack_success_rate"] > 0.3
    assert result.params.isfinite().all()


@pytest.mark.usefixtures("mine")
def test_the_module_takes_the_export_and_its_state_dict_is_a_start() -> None:
    settings = {"dataset": "mine:stripes", "clients": 5, "rounds": 2, "batch_size": 20, "device": "cpu"}
    result = run(Experiment(**settings, defense="fedavg", augment="flip"), "run")
    assert main(["export", "run", "model.safetensors"]) == 0
    layers = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 8)
    module = nn.Sequential(*layers)
    module.load_state_dict(load_file("model.safetensors"))
    assert int(module[1].num_batches_tracked) > 0
    save_file(module.state_dict(), "state.safetensors")
    again = {**settings, "rounds": 1, "lr": 1e-30, "defense": "fedavg", "batch_norm": "keep-global"}
    for start in ("run", "model.safetensors"):
        torch.testing.assert_close(run(Experiment(**again, start=start)).params, result.params, rtol=1e-6, atol=1e-9)
    # The counter of batches is a whole number in a state dict.
    trained = sum(each.numel() for each in module.parameters())
    started = run(Experiment(**again, start="state.safetensors")).params
    torch.testing.assert_close(started[:trained], result.params[:trained], rtol=1e-6, atol=1e-9)


def test_it_takes_forty_lines() -> None:
    lines = [line for line in code_of("own_module.md").splitlines() if line.strip()]
    assert len(lines) <= 40
    assert torch.nn.BatchNorm2d.__name__ in code_of("own_module.md")
