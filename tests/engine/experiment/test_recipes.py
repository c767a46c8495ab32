"""Recipes: each gives a fresh, valid experiment; the first needs no network, and the paper's is the paper's."""

import pytest

import rflbat
from rflbat.experiment.config import Experiment
from rflbat.experiment.recipes import RECIPES
from rflbat.sweep.cells import make_cells


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_gives_an_experiment_of_its_own(name: str) -> None:
    told = RECIPES[name]()
    assert isinstance(told, Experiment)
    assert Experiment.from_dict(told.to_dict()) == told
    told.defense_args["changed"] = 1
    assert "changed" not in RECIPES[name]().defense_args
    assert RECIPES[name].summary.endswith(".")


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
    assert (told.attack, told.scale, told.attack_start, told.defense) == (None, 1.0, 0, "rflbat")


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.grid])
def test_a_grid_gives_the_cells_of_the_paper_s_scenario(name: str) -> None:
    cells = make_cells(RECIPES[name](), RECIPES[name].grid, 1)
    assert len(cells) == {"dna": 18, "dns": 6, "dnc": 8, "dba": 4}[name.partition("-")[0]]
    assert {cell.experiment.dataset for cell in cells} == {RECIPES[name]().dataset}


def test_the_distributed_backdoor_is_the_paper_s() -> None:
    for name in ("dba", "dba-femnist", "dba-amazon"):
        told = RECIPES[name]()
        assert (told.attack, told.malicious, told.participants or told.clients) == ("dba", 0.4, 100)
        assert {cell.experiment.scale for cell in make_cells(told, RECIPES[name].grid, 1)} == {1.0, 100.0}


def test_writers_are_the_clients_of_femnist() -> None:
    assert {RECIPES[name]().partition for name in ("femnist", "dna-femnist", "dnc", "dba-femnist")} == {"natural"}
