"""The experiments beyond MNIST, and the distributed backdoor: figures 3, 8, 9, 10, 13, 14 and table 3.

``small`` has the paper's 100 clients a round on smaller data: 265 writers of FEMNIST, 34,042 different Amazon
reviews. ``full`` has the paper's data, LEAF's 3,500 writers and Kaggle's whole table, for a GPU.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks.paper.studies import ALPHAS, FIGURE_7_ALPHA, FRACTIONS, MNIST, RULES
from rflbat.experiment.config import Experiment
from rflbat.experiment.recipes import RECIPES
from rflbat.sweep.cells import Cell, make_cells

LAMBDAS = (1.0, 100.0)
CLEAN_ROUNDS = (0, 1, 2, 3, 5, 10)
BASELINES = ("fedavg", "rflbat", "geomed", "rfa", "foolsgold")
TEXTS = ("amazon", "imdb")
SMALLEST = 0.1
"""Smallest share of the survivors that a cluster may have, in the study of the rules for the number of clusters."""


@dataclass(frozen=True)
class Scale:
    """Size of the experiments.

    Args:
        seeds: seeds of the experiments on FEMNIST.
        text_seeds: seeds of the experiments on texts.
        femnist: settings of FEMNIST that differ from the recipe.
        amazon: settings of Amazon that differ from the recipe.
        federations: (clients, partition, seeds) of figure 13.
        says: what is smaller than in the paper, for the page.
    """

    seeds: int
    text_seeds: int
    femnist: Mapping[str, Any]
    amazon: Mapping[str, Any]
    federations: tuple[tuple[int, str, int], ...]
    says: str


SCALES = {
    "small": Scale(
        seeds=3,
        text_seeds=2,
        femnist={},
        amazon={},
        federations=(
            *((clients, "natural", 3) for clients in (50, 100, 200, 265)),
            *((clients, "dirichlet", 1) for clients in (400, 600, 800, 1200, 1600)),
        ),
        says=(
            "FEMNIST has 265 of 3,500 writers, those with at least 100 training images; in figure 13 the images of "
            "these writers are divided by a Dirichlet draw of alpha 1 beyond 265 clients. Amazon has 4,253 of 20,000 "
            "reviews a class"
        ),
    ),
    "full": Scale(
        seeds=3,
        text_seeds=2,
        femnist={"clients": 3500, "dataset_args": {"min_samples": 1}, "rounds": 200, "eval_every": 20},
        amazon={"rounds": 100, "eval_every": 10},
        federations=tuple((clients, "natural", 3) for clients in (50, 100, 200, 400, 600, 800, 1600)),
        says="nothing: LEAF's whole FEMNIST and Kaggle's whole Reviews.csv are needed",
    ),
}


def _line_up(base: Experiment, grid: Mapping[str, Any], seeds: int) -> list[Cell]:
    """Every defense of the paper; Multi-Krum gets the true number of malicious clients."""
    cells = make_cells(base, {**grid, "defense": BASELINES}, seeds)
    return cells + make_cells(base, {**grid, "defense": ["multikrum"], "defense_arg.f": ["true"]}, seeds)


def femnist(scale: Scale) -> list[Cell]:
    """Figure 8: defenses against 10, 50 and 90 % malicious writers; also FoolsGold without memory."""
    base = RECIPES["femnist"]().changed(scale.femnist)
    forgetful = {"malicious": FRACTIONS, "defense": ["foolsgold"], "defense_arg.memory": ["false"]}
    return _line_up(base, {"malicious": FRACTIONS}, scale.seeds) + make_cells(base, forgetful, scale.seeds)


def texts(name: str, scale: Scale) -> list[Cell]:
    """Figures 9 and 10 on Amazon, and the same line-up on IMDB: IID at three shares and Dirichlet at 90 %."""
    base = _texts(name, scale)
    iid = _line_up(base, {"partition": ["iid"], "malicious": FRACTIONS}, scale.text_seeds)
    skewed = base.changed({"alpha": FIGURE_7_ALPHA})
    return iid + _line_up(skewed, {"partition": ["dirichlet"], "malicious": [0.9]}, scale.text_seeds)


def _texts(name: str, scale: Scale) -> Experiment:
    return RECIPES[name]().changed(scale.amazon if name == "amazon" else {})


def federations(scale: Scale) -> list[Cell]:
    """Figure 13: RFLBAT with half of the clients malicious, by the number of clients; all of them in every round."""
    base = RECIPES["dnc"]().changed({**scale.femnist, "participants": None, "alpha": 1.0})
    cells = []
    for clients, partition, seeds in scale.federations:
        cells += make_cells(base, {"partition": [partition], "clients": [clients]}, seeds)
    return cells


def distributed(scale: Scale) -> list[Cell]:
    """Table 3: the distributed backdoor under RFLBAT, lambda 1 and 100, from the first round and after clean ones."""
    grid = {"scale": LAMBDAS, "attack_start": (0, 5)}
    cells = make_cells(replace(MNIST, attack="dba", malicious=0.4), {"dataset": ["mnist"], **grid}, 3)
    femnist = RECIPES["dba-femnist"]().changed(scale.femnist)
    cells += make_cells(femnist, {"dataset": ["femnist"], **grid}, scale.seeds)
    for name in TEXTS:
        base = _texts(name, scale).changed({"attack": "dba", "malicious": 0.4})
        cells += make_cells(base, {"dataset": [name], **grid}, scale.text_seeds)
    return cells


def clusters_beyond(scale: Scale) -> list[Cell]:
    """RFLBAT's number of clusters on FEMNIST and Amazon at three shares, and a smallest size of a cluster."""
    cells = []
    for name, size in (("femnist", scale.femnist), ("amazon", scale.amazon)):
        base = RECIPES[name]().changed({**size, "rounds": 30, "eval_every": 10})
        grid = {"dataset": [name], "malicious": FRACTIONS}
        cells += make_cells(base, {**grid, "defense_arg.clusters": RULES}, 1)
        cells += make_cells(base, {**grid, "defense_arg.smallest": [SMALLEST]}, 1)
    return cells


def boundary(scale: Scale) -> list[Cell]:
    """Where RFLBAT begins to hold against the distributed backdoor: by clean rounds, local steps and rule."""
    base = replace(MNIST, attack="dba", malicious=0.4, rounds=20, eval_every=20)
    rules = {"attack_start": CLEAN_ROUNDS, "defense_arg.clusters": ("silhouette", "2", "5")}
    steps = {"attack_start": CLEAN_ROUNDS, "local_steps": (1, 3), "defense_arg.clusters": ("silhouette",)}
    return make_cells(base, rules, 3) + make_cells(base, steps, 3)


def clean(scale: Scale) -> list[Cell]:
    """FedAvg without an attack: the floor of the attack success rates, and the reference accuracy."""
    quiet = {"malicious": [0.0], "defense": ["fedavg"]}
    writers = RECIPES["femnist"]().changed(scale.femnist)
    cells = make_cells(writers, {**quiet, "dataset": ["femnist"]}, scale.seeds)
    for name in TEXTS:
        for partition, alpha in (("iid", 1.0), ("dirichlet", FIGURE_7_ALPHA)):
            base = _texts(name, scale).changed({"alpha": alpha})
            cells += make_cells(base, {**quiet, "dataset": [name], "partition": [partition]}, scale.text_seeds)
    cells += make_cells(MNIST, {**quiet, "dataset": ["mnist"]}, 3)
    skewed = replace(MNIST, partition="dirichlet")
    return cells + make_cells(skewed, {**quiet, "dataset": ["mnist"], "alpha": ALPHAS}, 3)


def central(scale: Scale) -> list[Cell]:
    """One model trained on all data, one epoch per round: the accuracy that the models can reach."""
    cells = []
    for name, samples, batch, settings in (
        ("femnist", 38_000, 20, {"rounds": 10}),
        ("amazon", 17_000, 64, {"optimizer": "adam", "lr": 0.001, "rounds": 4}),
        ("imdb", 24_800, 64, {"optimizer": "adam", "lr": 0.001, "rounds": 4}),
    ):
        base = RECIPES[name]().changed(
            {
                **settings,
                **{"clients": 1, "participants": None, "partition": "iid", "malicious": 0.0, "defense": "fedavg"},
                **{"batch_size": batch, "local_steps": samples // batch, "eval_every": 1},
            }
        )
        cells += make_cells(base, {"dataset": [name]}, 1)
    return cells


def outliers(scale: Scale) -> list[Cell]:
    """Two ways in which an honest writer becomes an outlier: few images, or a last batch of one image.

    RFLBAT and FedAvg with all 300 writers or those with at least 100 images, with short last batches kept or left out.
    """
    cells = []
    for clients, least in ((300, 1), (265, 100)):
        for drop_last in (False, True):
            size = {"clients": clients, "dataset_args": {"min_samples": least}, "drop_last": drop_last}
            base = RECIPES["femnist"]().changed({**scale.femnist, **size, "malicious": 0.1})
            grid = {"dataset_arg.min_samples": [least], "drop_last": [drop_last], "defense": ["rflbat", "fedavg"]}
            cells += make_cells(base, grid, 1)
    return cells


def optimizers(scale: Scale) -> list[Cell]:
    """FedAvg without an attack by the clients' optimizer: ten rounds with each of several settings."""
    tried = {
        "femnist": (("sgd", 0.05, 0.0), ("sgd", 0.1, 0.0), ("sgd", 0.3, 0.0), ("sgd", 0.05, 0.9), ("adam", 0.001, 0.0)),
        "amazon": (("adam", 0.002, 0.0), ("adam", 0.01, 0.0), ("adam", 0.03, 0.0), ("sgd", 0.5, 0.9)),
        "imdb": (("adam", 0.002, 0.0), ("adam", 0.01, 0.0), ("sgd", 0.5, 0.9)),
    }
    cells = []
    for name, choices in tried.items():
        base = RECIPES[name]().changed({"malicious": 0.0, "defense": "fedavg", "rounds": 10, "eval_every": 2})
        for optimizer, lr, momentum in choices:
            clip = 1.0 if optimizer == "sgd" and name in TEXTS else None
            grid = {"optimizer": [optimizer], "lr": [lr], "momentum": [momentum], "clip_norm": [clip]}
            cells += make_cells(base, {"dataset": [name], **grid}, 1)
    return cells


SCENARIOS: dict[str, Callable[[Scale], list[Cell]]] = {
    "clean": clean,
    "femnist": femnist,
    "distributed": distributed,
    "boundary": boundary,
    "federations": federations,
    "amazon": partial(texts, "amazon"),
    "imdb": partial(texts, "imdb"),
    "clusters_beyond": clusters_beyond,
    "central": central,
    "outliers": outliers,
    "optimizers": optimizers,
}


def scenarios(scale: Scale) -> dict[str, Callable[[int], list[Cell]]]:
    """Build the studies of a scale in the form of ``studies.STUDIES``; the scale fixes the number of seeds.

    Args:
        scale: size of the experiments.

    Returns:
        name -> function of a number of seeds, which it ignores.
    """

    def cells(make: Callable[[Scale], list[Cell]], seeds: int) -> list[Cell]:
        return make(scale)

    return {name: partial(cells, make) for name, make in SCENARIOS.items()}
