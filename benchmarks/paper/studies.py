"""The cells of the experiments behind each figure. Settings that the paper does not give are chosen in this module.

The paper gives: 100 clients, all taking part, half of each malicious batch poisoned, roles redrawn, eps 10 and 4. It
does not give: learning rate, local steps, batch size, rounds, the Dirichlet alpha of figure 7, the malicious share of
figure 11, the number of clusters. Ours are the same for every defense.
"""

from collections.abc import Callable
from dataclasses import replace

from rflbat.experiment.config import Experiment
from rflbat.sweep.cells import Cell, make_cells

FRACTIONS = (0.1, 0.5, 0.9)
ALPHAS = (0.1, 0.3, 0.5, 1.0, 1.5, 2.0)
FIGURE_7_ALPHA = 0.5
RULES = ("gap", "gap2", "silhouette", 2, 3, 5)

MNIST = Experiment(dataset="mnist", rounds=50, eval_every=5)
PARTITIONS = (
    replace(MNIST, partition="iid"),
    replace(MNIST, partition="dirichlet", alpha=FIGURE_7_ALPHA),
)


def attackers(seeds: int) -> list[Cell]:
    """Figures 6 and 7: defenses against 10, 50 and 90 % malicious clients, IID and non-IID.

    FoolsGold runs three times: with its memory and roles redrawn (the original method in the paper's scenario),
    without memory, and with memory and fixed roles. RFLBAT runs twice: with the default rule for the number of
    clusters and with two. Multi-Krum gets the true number of malicious clients.
    """
    cells = []
    for base in PARTITIONS:
        common = {"partition": [base.partition], "alpha": [base.alpha], "malicious": FRACTIONS}
        cells += make_cells(base, {**common, "defense": ["fedavg", "geomed", "rfa", "rflbat", "foolsgold"]}, seeds)
        cells += make_cells(base, {**common, "defense": ["rflbat"], "defense_arg.clusters": ["2"]}, seeds)
        cells += make_cells(base, {**common, "defense": ["foolsgold"], "defense_arg.memory": ["false"]}, seeds)
        cells += make_cells(base, {**common, "defense": ["foolsgold"], "roles": ["fixed"]}, seeds)
        cells += make_cells(base, {**common, "defense": ["multikrum"], "defense_arg.f": ["true"]}, seeds)
    return cells


def non_iid(seeds: int) -> list[Cell]:
    """Figures 11 and 12: RFLBAT, by the default rule and with two clusters, half malicious, alpha from 0.1 to 2."""
    base = replace(MNIST, partition="dirichlet")
    two = {"alpha": ALPHAS, "defense_arg.clusters": ["2"]}
    return make_cells(base, {"alpha": ALPHAS}, seeds) + make_cells(base, two, seeds)


def clusters(seeds: int) -> list[Cell]:
    """RFLBAT's number of clusters: six rules on two data sets, three shares of malicious clients, three partitions."""
    cells = []
    for dataset in ("digits", "mnist"):
        for partition, alpha in (("iid", 1.0), ("dirichlet", 1.0), ("dirichlet", 0.5)):
            base = replace(MNIST, dataset=dataset, partition=partition, alpha=alpha, rounds=20, eval_every=20)
            grid = {
                "dataset": [dataset],
                "partition": [partition],
                "alpha": [alpha],
                "malicious": FRACTIONS,
                "defense_arg.clusters": RULES,
            }
            cells += make_cells(base, grid, seeds)
    return cells


def clusters_longer(seeds: int) -> list[Cell]:
    """The best rules of ``clusters`` on the cases that distinguish them: 50 rounds, twice the seeds."""
    base = replace(MNIST, partition="dirichlet", alpha=FIGURE_7_ALPHA, eval_every=50)
    grid = {"malicious": (0.1, 0.9), "defense_arg.clusters": ("silhouette", 2, 3, "gap2")}
    return make_cells(base, grid, 2 * seeds)


def noise(seeds: int) -> list[Cell]:
    """GeoMed and RFA against 10 % malicious clients: the influence of the updates' noise, by batch size."""
    cells = []
    for base in PARTITIONS:
        grid = {
            "partition": [base.partition],
            "alpha": [base.alpha],
            "malicious": [0.1],
            "defense": ["geomed", "rfa"],
            "batch_size": [1, 5, 20, 60],
        }
        cells += make_cells(replace(base, eval_every=50), grid, seeds)
    return cells


STUDIES: dict[str, Callable[[int], list[Cell]]] = {
    "attackers": attackers,
    "non_iid": non_iid,
    "clusters": clusters,
    "clusters_longer": clusters_longer,
    "noise": noise,
}


def defense_label(config: dict[str, object]) -> str:
    """Name the defense of a run as in the tables, with the variants of FoolsGold and RFLBAT."""
    name, arguments = str(config["defense"]), config["defense_args"]
    assert isinstance(arguments, dict)
    if name == "rflbat" and "clusters" in arguments:
        return f"rflbat, {arguments['clusters']} clusters"
    if name == "rflbat" and arguments.get("smallest"):
        return f"rflbat, smallest {arguments['smallest']:.0%}"
    if name == "foolsgold" and arguments.get("memory") in (False, "false"):
        return "foolsgold, no memory"
    return "foolsgold, fixed roles" if name == "foolsgold" and config["roles"] == "fixed" else name
