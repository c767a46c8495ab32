"""Ready-made experiments: functions that return configurations, and the grids that `rflbat sweep` runs over them.

The scenarios are the paper's: DNA (number of attackers), DNS (non-IID degree), DNC (number of clients), DBA
(distributed backdoor). The paper gives no learning rate, local steps, batch size or rounds; ours stand here.
"""

from collections.abc import Callable, Mapping

from rflbat.experiment.config import Experiment


def smoke() -> Experiment:
    """RFLBAT against half of 100 clients on the embedded digits: seconds, no network."""
    return Experiment(dataset="digits", rounds=30)


def mnist() -> Experiment:
    """The paper's MNIST setting: 100 clients, logistic regression, half of them malicious, IID."""
    return Experiment(dataset="mnist")


def femnist() -> Experiment:
    """The paper's FEMNIST setting: 100 of the writers in a round, each a client, CNN, half of them malicious.

    Of the 300 writers of three LEAF samples, 265 have at least 100 training images; the others were cut short when the
    samples were drawn.
    """
    return Experiment(
        dataset="femnist",
        dataset_args={"min_samples": 100},
        clients=265,
        participants=100,
        partition="natural",
        batch_size=20,
        drop_last=True,
        rounds=60,
        eval_every=5,
    )


def amazon() -> Experiment:
    """The paper's Amazon setting: reviews among 100 clients, LSTM, half of them malicious, IID."""
    return Experiment(dataset="amazon", batch_size=16, lr=0.01, optimizer="adam", rounds=40, eval_every=5)


def imdb() -> Experiment:
    """IMDB film reviews among 100 clients, LSTM, half of them malicious, IID: an addition to the paper's data sets."""
    return Experiment(
        dataset="imdb",
        dataset_args={"tokens": 100},
        batch_size=16,
        lr=0.01,
        optimizer="adam",
        rounds=40,
        eval_every=5,
    )


def dna() -> Experiment:
    """Scenario DNA on MNIST, IID: 10, 50 and 90 % malicious clients against each defense (figures 6, 7)."""
    return mnist()


def dna_femnist() -> Experiment:
    """Scenario DNA on FEMNIST: 10, 50 and 90 % malicious writers against each defense (figure 8)."""
    return femnist()


def dna_amazon() -> Experiment:
    """Scenario DNA on Amazon, IID: 10, 50 and 90 % malicious clients against each defense (figures 9, 10)."""
    return amazon()


def dns() -> Experiment:
    """Scenario DNS on MNIST: RFLBAT against half malicious clients, Dirichlet alpha from 0.1 to 2 (figures 11, 12)."""
    return mnist().changed({"partition": "dirichlet"})


def dnc() -> Experiment:
    """Scenario DNC on FEMNIST: RFLBAT against half malicious of 50 to 1,600 writers (figure 13)."""
    return femnist().changed({"clients": 100, "participants": None})


def dba() -> Experiment:
    """Scenario DBA on MNIST: four groups of 10 % with a quarter of the trigger each, lambda 1 and 100 (table 3)."""
    return mnist().changed({"attack": "dba", "malicious": 0.4})


def dba_femnist() -> Experiment:
    """Scenario DBA on FEMNIST (table 3)."""
    return femnist().changed({"attack": "dba", "malicious": 0.4})


def dba_amazon() -> Experiment:
    """Scenario DBA on Amazon: four groups of words of the sentence (table 3)."""
    return amazon().changed({"attack": "dba", "malicious": 0.4})


RECIPES: dict[str, Callable[[], Experiment]] = {
    "smoke": smoke,
    "mnist": mnist,
    "femnist": femnist,
    "amazon": amazon,
    "imdb": imdb,
    "dna": dna,
    "dna-femnist": dna_femnist,
    "dna-amazon": dna_amazon,
    "dns": dns,
    "dnc": dnc,
    "dba": dba,
    "dba-femnist": dba_femnist,
    "dba-amazon": dba_amazon,
}

Grid = Mapping[str, tuple[str, ...]]

ATTACKERS: Grid = {
    "defense": ("fedavg", "foolsgold", "multikrum", "geomed", "rfa", "rflbat"),
    "malicious": ("0.1", "0.5", "0.9"),
}
DISTRIBUTED: Grid = {"scale": ("1", "100"), "attack_start": ("0", "5")}

GRIDS: dict[str, Grid] = {
    "dna": ATTACKERS,
    "dna-femnist": ATTACKERS,
    "dna-amazon": ATTACKERS,
    "dns": {"alpha": ("0.1", "0.3", "0.5", "1", "1.5", "2")},
    "dnc": {"clients": ("50", "100", "200", "400", "600", "800", "1200", "1600")},
    "dba": DISTRIBUTED,
    "dba-femnist": DISTRIBUTED,
    "dba-amazon": DISTRIBUTED,
}
"""What `rflbat sweep RECIPE` varies; a `--grid` of the same setting replaces its values, another is added."""
