"""From the cells' summaries to what the page says: one CSV row per run, means over seeds, verdicts."""

import csv
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from benchmarks.paper.claims import Claim, Measured
from benchmarks.paper.studies import defense_label
from rflbat.defenses.rflbat import rflbat
from rflbat.results.folder import RunFolder
from rflbat.results.tables import Table
from rflbat.sweep import Cell

METRICS = (
    "accuracy",
    "attack_success_rate",
    "attack_success_rate_inclusive",
    "precision",
    "recall",
    "false_positive_rate",
    "malicious_weight",
)
FIELDS = (
    *("dataset", "partition", "alpha", "malicious", "attack_start", "scale", "local_steps", "batch_size"),
    *("clients", "participants", "seed", "rounds"),
)
SETTINGS = ("study", *FIELDS, "defense", "clusters_by")
LOCAL = tuple(f"local_attack_success_rate_{group}" for group in range(4))
FIRST = ("similarity_malicious", "similarity_honest")
COLUMNS = (*SETTINGS, *METRICS, *LOCAL, *FIRST)
CLUSTERS = signature(rflbat).parameters["clusters"].default


def row_of(study: str, cell: Cell, summary: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Give the CSV row of one run; empty where a measure does not exist."""
    config = cell.experiment.to_dict()
    settings = {
        "study": study,
        **{key: config[key] for key in FIELDS},
        "defense": defense_label(config),
        "clusters_by": config["defense_args"].get("clusters", CLUSTERS) if config["defense"] == "rflbat" else "",
    }
    local = dict(zip(LOCAL, summary.get("local_attack_success_rates") or [], strict=False))
    values = {**{key: summary[key] for key in METRICS}, **local}
    if config["attack"] == "dba" and config["defense"] == "rflbat":
        values |= first_similarities(folder, config["attack_start"])
    return {**settings, **{key: "" if value is None else f"{value:.6f}" for key, value in values.items()}}


def first_similarities(folder: Path, attack_start: int) -> dict[str, float]:
    """Mean similarity v_j of malicious and of honest clients to their clusters in the first attacked round."""
    rows = [row for row in RunFolder(folder).clients() if row["round"] == attack_start and row["cluster"] != -1]
    by_truth = {truth: [row["score"] for row in rows if row["malicious"] == truth] for truth in (True, False)}
    means = (statistics.fmean(by_truth[truth]) for truth in (True, False))
    return dict(zip(FIRST, means, strict=True))


def _figure_3(cell: Cell) -> bool:
    config = cell.experiment
    return (config.partition, config.malicious, config.seed, config.defense_args) == ("dirichlet", 0.5, 0, {}) and (
        config.defense == "rflbat"
    )


def _figure_14(cell: Cell) -> bool:
    config = cell.experiment
    return (config.dataset, config.attack_start, config.seed) == ("mnist", 5, 0)


SCATTERED: dict[str, Callable[[Cell], bool]] = {"attackers": _figure_3, "distributed": _figure_14}
"""Study -> which of its cells have their PCA plane drawn (figures 3 and 14)."""


def write_scatter(path: Path, cells: Sequence[Cell], folders: Mapping[str, Path]) -> None:
    """Write the PCA plane of round 10 of each cell: one line for each client."""
    columns = ("scale", "round", "client", "malicious", "stage", "x", "y")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for cell in cells:
            for row in RunFolder(folders[cell.name]).clients():
                if row["round"] == 10:
                    x, y = row["coordinates"]
                    truth = (row["client"], int(row["malicious"]), row["stage"])
                    writer.writerow((cell.experiment.scale, row["round"], *truth, f"{x:.6g}", f"{y:.6g}"))


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one row per run, in a stable order."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read what ``write_csv`` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def over_seeds(rows: Sequence[Mapping[str, str]], setting: str) -> Measured:
    """Average accuracy and attack success rate over seeds, in percent.

    Args:
        rows: rows of one study.
        setting: "malicious" or "alpha".

    Returns:
        (partition, setting, defense, metric) -> mean, sample standard deviation (NaN for one seed).
    """
    values: dict[tuple[str, float, str, str], list[float]] = {}
    for row in rows:
        for metric in ("accuracy", "attack_success_rate"):
            key = (row["partition"], float(row[setting]), row["defense"], metric)
            values.setdefault(key, []).append(100 * float(row[metric]))
    return {
        key: (statistics.fmean(each), statistics.stdev(each) if len(each) > 1 else math.nan)
        for key, each in values.items()
    }


def claims_table(claims: Sequence[Claim], measured: Measured, setting: str, learned: float = 0.0) -> Table:
    """Set the paper's claims beside our means: paper, here, difference, verdict.

    A claim that the attack fails is not judged on a model of less than ``learned`` percent accuracy: a model that has
    learned nothing has not learned the backdoor either.
    """
    body = []
    for claim in claims:
        mean, spread = measured[claim.partition, claim.setting, claim.defense, claim.metric]
        accuracy, accuracy_spread = measured[claim.partition, claim.setting, claim.defense, "accuracy"]
        verdict = "holds" if claim.holds(mean) else "**does not hold**"
        if accuracy < learned and claim.holds(0.0):
            verdict = "not judged: accuracy too low"
        body.append(
            (
                claim.defense,
                f"{100 * claim.setting:.0f} %" if setting == "malicious" else f"{claim.setting:g}",
                claim.paper,
                with_spread(mean, spread),
                "" if claim.number is None else f"{mean - claim.number:+.1f}",
                verdict,
                with_spread(accuracy, accuracy_spread),
            )
        )
    columns = ("defense", setting, "paper: attack success, %", "here, %", "difference", "claim", "accuracy here, %")
    return Table("", columns, body)


def noise_table(rows: Sequence[Mapping[str, str]]) -> Table:
    """Attack success of GeoMed and RFA by batch size, mean and standard deviation over seeds."""
    sizes = list(dict.fromkeys(row["batch_size"] for row in rows))
    cells: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        case = (row["defense"], "IID" if row["partition"] == "iid" else f"alpha {row['alpha']}")
        cells.setdefault(case, {}).setdefault(row["batch_size"], []).append(100 * float(row["attack_success_rate"]))
    body = [(*case, *(mean_and_spread(by_size[size]) for size in sizes)) for case, by_size in cells.items()]
    return Table("", ("defense", "partition", *(f"batch of {size}" for size in sizes)), body)


def with_spread(mean: float, spread: float) -> str:
    """Give mean ± standard deviation as text, the mean alone where there is one seed."""
    return f"{mean:.1f}" if math.isnan(spread) else f"{mean:.1f} ± {spread:.1f}"


def mean_and_spread(values: Sequence[float]) -> str:
    """Give mean ± sample standard deviation as text."""
    return with_spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan)


def clusters_table(rows: Sequence[Mapping[str, str]]) -> Table:
    """Accuracy / attack success of each rule for the number of clusters, mean over seeds, worst seed in brackets."""
    cells: dict[tuple[str, ...], dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        partition = "IID" if row["partition"] == "iid" else f"alpha {row['alpha']}"
        case = (row["dataset"], partition, f"{100 * float(row['malicious']):.0f} %")
        pair = (100 * float(row["accuracy"]), 100 * float(row["attack_success_rate"]))
        cells.setdefault(case, {}).setdefault(row["clusters_by"], []).append(pair)
    rules = list(dict.fromkeys(row["clusters_by"] for row in rows))
    body = []
    for case, by_rule in cells.items():
        texts = []
        for rule in rules:
            accuracy, attack = zip(*by_rule[rule], strict=True)
            text = f"{statistics.fmean(accuracy):.1f} / {statistics.fmean(attack):.1f} ({max(attack):.1f})"
            texts.append(f"**{text}**" if max(attack) > 5 else text)
        body.append((*case, *texts))
    totals = []
    for rule in rules:
        every = [pair for by_rule in cells.values() for pair in by_rule[rule]]
        broken = sum(attack > 5 for _, attack in every)
        totals.append(f"{broken} of {len(every)} runs broken, accuracy {statistics.fmean(a for a, _ in every):.1f}")
    return Table("", ("data", "partition", "malicious", *rules), [*body, ("all", "", "", *totals)])
