"""The experiments beyond MNIST, and the distributed backdoor: figures 3, 8, 9, 10, 13, 14 and table 3.

``small`` runs on two cores in about an hour and says what it shrinks; ``full`` is the paper's size, for a GPU.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks.paper.studies import FIGURE_7_ALPHA, FRACTIONS, MNIST
from rflbat.config import Experiment
from rflbat.recipes import RECIPES
from rflbat.sweep import Cell, make_cells

LAMBDAS = (1.0, 100.0)
CLEAN_ROUNDS = (0, 1, 2, 3, 5, 10)
BASELINES = ("fedavg", "geomed", "rfa", "rflbat", "foolsgold")


@dataclass(frozen=True)
class Scale:
    """How large the experiments are.

    Args:
        seeds: seeds of the experiments on FEMNIST and Amazon.
        femnist: settings of FEMNIST.
        amazon: settings of Amazon.
        federations: (clients, partition) of figure 13.
        federation: further settings of figure 13.
        says: what it shrinks, for the page.
    """

    seeds: int
    femnist: Mapping[str, Any]
    amazon: Mapping[str, Any]
    federations: tuple[tuple[int, str], ...]
    federation: Mapping[str, Any]
    says: str


SCALES = {
    "small": Scale(
        seeds=1,
        femnist={"clients": 300, "participants": 40, "local_steps": 5, "rounds": 20, "eval_every": 10},
        amazon={"clients": 20, "rounds": 10, "eval_every": 5},
        federations=(
            *((clients, "natural") for clients in (50, 100, 200, 300)),
            *((clients, "dirichlet") for clients in (400, 600, 800, 1600)),
        ),
        federation={"rounds": 4, "local_steps": 2, "eval_every": 4},
        says=(
            "FEMNIST: 300 of 3,500 writers, 40 of them a round, 5 local steps of 20, 20 rounds, one seed; figure 13: "
            "all clients in every round, 2 local steps, 4 rounds, and beyond 300 clients the images of the 300 writers "
            "divided by a Dirichlet draw of alpha 1. Amazon: 787 of 20,000 reviews a class, 13,285 of 56,785 words, 20 "
            "of 100 clients, 10 local steps of 16, 10 rounds, one seed"
        ),
    ),
    "full": Scale(
        seeds=3,
        femnist={"clients": 3500, "participants": 100, "rounds": 200, "eval_every": 20},
        amazon={"clients": 100, "rounds": 100, "eval_every": 10},
        federations=tuple((clients, "natural") for clients in (50, 100, 200, 400, 600, 800, 1600)),
        federation={"rounds": 200, "eval_every": 20},
        says="nothing: LEAF's whole FEMNIST and Kaggle's whole Reviews.csv are needed",
    ),
}


def _line_up(base: Experiment, grid: Mapping[str, Any], seeds: int) -> list[Cell]:
    """Every defense of the paper; Multi-Krum is told the true number."""
    cells = make_cells(base, {**grid, "defense": BASELINES}, seeds)
    return cells + make_cells(base, {**grid, "defense": ["multikrum"], "defense_arg.f": ["true"]}, seeds)


def femnist(scale: Scale) -> list[Cell]:
    """Figure 8: defenses against 10, 50 and 90 % malicious writers; FoolsGold without memory too."""
    base = RECIPES["femnist"]().changed(scale.femnist)
    forgetful = {"malicious": FRACTIONS, "defense": ["foolsgold"], "defense_arg.memory": ["false"]}
    return _line_up(base, {"malicious": FRACTIONS}, scale.seeds) + make_cells(base, forgetful, scale.seeds)


def amazon(scale: Scale) -> list[Cell]:
    """Figures 9 and 10: reviews, IID at three shares and Dirichlet at 90 %."""
    base = RECIPES["amazon"]().changed(scale.amazon)
    iid = _line_up(base, {"partition": ["iid"], "malicious": FRACTIONS}, scale.seeds)
    skewed = base.changed({"alpha": FIGURE_7_ALPHA})
    return iid + _line_up(skewed, {"partition": ["dirichlet"], "malicious": [0.9]}, scale.seeds)


def hundred(scale: Scale) -> list[Cell]:
    """RFLBAT beside FedAvg with all of 100 clients in every round, half of them malicious, 30 rounds.

    On FEMNIST RFLBAT once more after five clean rounds, since it begins by trusting the malicious there.
    """
    cells = []
    for name, steps in (("femnist", 5), ("amazon", 2)):
        base = RECIPES[name]().changed({"clients": 100, "rounds": 30, "eval_every": 10, "local_steps": steps})
        cells += make_cells(base, {"dataset": [name], "defense": ["fedavg", "rflbat"]}, scale.seeds)
        if name == "femnist":
            cells += make_cells(base, {"dataset": [name], "attack_start": [5]}, scale.seeds)
    return cells


def federations(scale: Scale) -> list[Cell]:
    """Figure 13: RFLBAT against half malicious clients, whatever their number."""
    base = RECIPES["dnc"]().changed({**scale.femnist, **scale.federation, "participants": None, "alpha": 1.0})
    cells = []
    for clients, partition in scale.federations:
        cells += make_cells(base, {"partition": [partition], "clients": [clients]}, scale.seeds)
    return cells


def distributed(scale: Scale) -> list[Cell]:
    """Table 3: the distributed backdoor under RFLBAT, lambda 1 and 100, from the first round and after clean ones."""
    grid = {"dataset": ["mnist"], "scale": LAMBDAS, "attack_start": (0, 5)}
    cells = make_cells(replace(MNIST, attack="dba", malicious=0.4), grid, 3)
    for recipe, size in (("dba-femnist", scale.femnist), ("dba-amazon", scale.amazon)):
        base = RECIPES[recipe]().changed(size)
        cells += make_cells(base, {**grid, "dataset": [base.dataset]}, scale.seeds)
    return cells


def boundary(scale: Scale) -> list[Cell]:
    """Where RFLBAT begins to hold against the distributed backdoor: clean rounds before it, local steps, rule."""
    base = replace(MNIST, attack="dba", malicious=0.4, rounds=20, eval_every=20)
    rules = {"attack_start": CLEAN_ROUNDS, "defense_arg.clusters": ("silhouette", "2", "5")}
    steps = {"attack_start": CLEAN_ROUNDS, "local_steps": (1, 3), "defense_arg.clusters": ("silhouette",)}
    return make_cells(base, rules, 3) + make_cells(base, steps, 3)


def clean(scale: Scale) -> list[Cell]:
    """FedAvg that nobody attacks: the floor of the attack success rates, and the accuracy that there is to lose."""
    quiet = {"malicious": [0.0], "defense": ["fedavg"]}
    sizes = (("femnist", scale.femnist), ("amazon", scale.amazon))
    bases = [RECIPES[name]().changed({**size, "attack_args": {}}) for name, size in sizes]
    cells = [cell for base in bases for cell in make_cells(base, {**quiet, "dataset": [base.dataset]}, scale.seeds)]
    return cells + make_cells(MNIST, {**quiet, "dataset": ["mnist"]}, 3)


SCENARIOS: dict[str, Callable[[Scale], list[Cell]]] = {
    "clean": clean,
    "distributed": distributed,
    "boundary": boundary,
    "femnist": femnist,
    "amazon": amazon,
    "hundred": hundred,
    "federations": federations,
}


def scenarios(scale: Scale) -> dict[str, Callable[[int], list[Cell]]]:
    """Give the studies of a scale in the form of ``studies.STUDIES``; the number of seeds is the scale's.

    Args:
        scale: how large.

    Returns:
        name -> function of a number of seeds, which it ignores.
    """

    def cells(make: Callable[[Scale], list[Cell]], seeds: int) -> list[Cell]:
        return make(scale)

    return {name: partial(cells, make) for name, make in SCENARIOS.items()}
