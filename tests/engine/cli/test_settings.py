"""Where a setting comes from: flags override the TOML file, which overrides the recipe."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rflbat.cli import runs
from rflbat.errors import UserError
from rflbat.experiment.config import Experiment
from rflbat.experiment.recipes import RECIPES, Recipe
from tests.engine.cli.conftest import Call

MINE = Experiment(clients=9, rounds=4, lr=0.3, defense_args={"eps1": 9.0, "weighting": "samples"})

Asked = Callable[[str], Experiment]


@pytest.fixture
def asked(call: Call, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Return the experiment of a command line, without running it."""
    found: list[Experiment] = []

    def stop(experiment: Experiment, *rest: Any) -> None:
        found.append(experiment)
        raise UserError("asked")

    monkeypatch.setattr(runs, "run", stop)
    monkeypatch.setitem(RECIPES, "mine", Recipe("", MINE.to_dict()))

    def ask(line: str) -> Experiment:
        assert call(line) == (2, "", "rflbat: asked\n")
        return found.pop()

    return ask


def test_a_recipe_as_it_is(asked: Asked) -> None:
    assert asked("run") == asked("run smoke") == RECIPES["smoke"]()
    assert asked("run mnist") == RECIPES["mnist"]()
    assert asked("run mine") == MINE


def test_flags_override_toml_overrides_recipe(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("rounds = 6\nlr = 0.2\n[defense_args]\neps2 = 3\n")
    told = asked("run mine --config own.toml --lr 0.1 --partition dirichlet")
    assert told == replace(MINE, rounds=6, lr=0.1, partition="dirichlet", defense_args={"eps2": 3})
    assert asked("run mine --lr=0.1 --partition=dirichlet --config=own.toml") == told
    assert asked("run --config own.toml --local_steps 3") == replace(
        RECIPES["smoke"](), rounds=6, lr=0.2, local_steps=3, defense_args={"eps2": 3}
    )


def test_parameters_of_a_recipe_belong_to_its_defense(asked: Asked) -> None:
    assert asked("run mine --defense-arg weighting=uniform").defense_args == {"eps1": 9.0, "weighting": "uniform"}
    assert asked("run mine --defense rflbat").defense_args == {"eps1": 9.0, "weighting": "samples"}
    assert asked("run mine --defense krum").defense_args == {}


def test_parameters_of_a_recipe_do_not_reach_the_defense_of_a_file(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "krum.toml").write_text("defense = 'krum'")
    assert asked("run mine --config krum.toml").defense_args == {}


def test_parameters_of_a_file_do_not_reach_the_defense_of_a_flag(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("defense = 'krum'\n[defense_args]\nf = 1\n")
    assert asked("run --config own.toml").defense_args == {"f": 1}
    assert asked("run --config own.toml --defense rfa").defense_args == {}


def test_parameters_are_kept_as_what_they_are(asked: Asked) -> None:
    told = asked("run --defense-arg clusters=3 --defense-arg eps1=9 --attack-arg size=4")
    assert (told.defense_args, told.attack_args) == ({"clusters": 3, "eps1": 9.0}, {"size": 4})
    assert isinstance(told.defense_args["eps1"], float)
