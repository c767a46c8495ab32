"""Recipes: each gives a fresh, valid experiment; the first needs no network, and the paper's is the paper's."""

import pytest

import rflbat
from rflbat.config import Experiment
from rflbat.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_gives_an_experiment_of_its_own(name: str) -> None:
    told = RECIPES[name]()
    assert isinstance(told, Experiment)
    assert Experiment.from_dict(told.to_dict()) == told
    told.defense_args["changed"] = 1
    assert "changed" not in RECIPES[name]().defense_args
    assert (RECIPES[name].__doc__ or "").strip()


def test_recipes_are_public() -> None:
    assert rflbat.RECIPES is RECIPES
    assert next(iter(RECIPES)) == "smoke"


def test_smoke_needs_no_files() -> None:
    told = RECIPES["smoke"]()
    assert (told.dataset, told.data_dir) == ("digits", None)
    assert (told.clients, told.malicious, told.defense, told.device) == (100, 0.5, "rflbat", "auto")
    assert told.rounds <= 30


def test_mnist_is_the_paper_s() -> None:
    told = RECIPES["mnist"]()
    assert (told.dataset, told.model, told.partition) == ("mnist", None, "iid")
    assert (told.clients, told.participants, told.malicious, told.roles) == (100, None, 0.5, "redrawn")
    assert (told.rounds, told.local_steps, told.batch_size, told.lr, told.momentum) == (50, 10, 60, 0.1, 0.0)
    assert (told.attack, told.scale, told.attack_start, told.defense) == ("pixel", 1.0, 0, "rflbat")
