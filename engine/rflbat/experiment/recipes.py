"""Named experiments: settings, and the grid that ``rflbat sweep`` runs over them.

The scenarios are the paper's: DNA (number of attackers), DNS (non-IID degree), DNC (number of clients) and DBA
(distributed backdoor). The paper gives no learning rate, local steps, batch size or rounds; these are ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rflbat.experiment.config import Experiment

Grid = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Recipe:
    """A named experiment. Calling it returns its configuration.

    Args:
        summary: one line that describes it.
        settings: settings that differ from the defaults of ``Experiment``.
        grid: what ``rflbat sweep`` varies: setting -> values. A ``--grid`` of the same setting replaces its values.

    Example:
        >>> RECIPES["mnist"]().dataset
        'mnist'
    """

    summary: str
    settings: Mapping[str, Any]
    grid: Grid = field(default_factory=dict)

    def __call__(self) -> Experiment:
        """Return the configuration."""
        return Experiment(**self.settings)


ATTACKERS: Grid = {
    "defense": ("fedavg", "foolsgold", "multikrum", "geomed", "rfa", "rflbat"),
    "malicious": ("0.1", "0.5", "0.9"),
}
DISTRIBUTED: Grid = {"scale": ("1", "100"), "attack_start": ("0", "5")}
DBA = {"attack": "dba", "malicious": 0.4}

MNIST: dict[str, Any] = {"dataset": "mnist"}
FEMNIST: dict[str, Any] = {
    **{"dataset": "femnist", "dataset_args": {"min_samples": 100}, "clients": 265, "participants": 100},
    **{"partition": "natural", "batch_size": 20, "drop_last": True, "rounds": 60, "eval_every": 5},
}
"""265 of the 300 writers of three LEAF samples have at least 100 training images; the sampling cut the others."""
TEXT: dict[str, Any] = {"batch_size": 16, "lr": 0.01, "optimizer": "adam", "rounds": 40, "eval_every": 5}
AMAZON = {"dataset": "amazon", **TEXT}
IMDB = {"dataset": "imdb", "dataset_args": {"tokens": 100}, **TEXT}

RECIPES: dict[str, Recipe] = {
    "smoke": Recipe(
        "RFLBAT against half of 100 clients on the embedded digits: seconds, no network.",
        {"dataset": "digits", "rounds": 30},
    ),
    "mnist": Recipe(
        "The paper's MNIST setting: 100 clients, logistic regression, half of them malicious, IID.",
        MNIST,
    ),
    "femnist": Recipe(
        "The paper's FEMNIST setting: 100 of the writers in a round, each a client, CNN, half of them malicious.",
        FEMNIST,
    ),
    "amazon": Recipe(
        "The paper's Amazon setting: reviews among 100 clients, LSTM, half of them malicious, IID.",
        AMAZON,
    ),
    "imdb": Recipe(
        "IMDB film reviews among 100 clients, LSTM, half of them malicious, IID: an addition to the paper's data sets.",
        IMDB,
    ),
    "dna": Recipe(
        "Scenario DNA on MNIST, IID: 10, 50 and 90 % malicious clients against each defense (figures 6, 7).",
        MNIST,
        ATTACKERS,
    ),
    "dna-femnist": Recipe(
        "Scenario DNA on FEMNIST: 10, 50 and 90 % malicious writers against each defense (figure 8).",
        FEMNIST,
        ATTACKERS,
    ),
    "dna-amazon": Recipe(
        "Scenario DNA on Amazon, IID: 10, 50 and 90 % malicious clients against each defense (figures 9, 10).",
        AMAZON,
        ATTACKERS,
    ),
    "dns": Recipe(
        "Scenario DNS on MNIST: RFLBAT against half malicious clients, Dirichlet alpha from 0.1 to 2 (figures 11, 12).",
        {**MNIST, "partition": "dirichlet"},
        {"alpha": ("0.1", "0.3", "0.5", "1", "1.5", "2")},
    ),
    "dnc": Recipe(
        "Scenario DNC on FEMNIST: RFLBAT against half malicious of 50 to 1,600 writers (figure 13).",
        {**FEMNIST, "clients": 100, "participants": None},
        {"clients": ("50", "100", "200", "400", "600", "800", "1200", "1600")},
    ),
    "dba": Recipe(
        "Scenario DBA on MNIST: four groups of 10 % with a quarter of the trigger each, lambda 1 and 100 (table 3).",
        {**MNIST, **DBA},
        DISTRIBUTED,
    ),
    "dba-femnist": Recipe("Scenario DBA on FEMNIST (table 3).", {**FEMNIST, **DBA}, DISTRIBUTED),
    "dba-amazon": Recipe(
        "Scenario DBA on Amazon: four groups of words of the sentence (table 3).",
        {**AMAZON, **DBA},
        DISTRIBUTED,
    ),
}
