"""The tutorial that takes a user's module and data set to an attacked run, run as it stands."""

import shlex
import sys
from pathlib import Path

import pytest
import torch

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


def test_it_takes_forty_lines() -> None:
    lines = [line for line in code_of("own_module.md").splitlines() if line.strip()]
    assert len(lines) <= 40
    assert torch.nn.BatchNorm2d.__name__ in code_of("own_module.md")
