"""From the cells' summaries to the tables of the page: one CSV row per run, means over seeds."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from benchmarks.paper.claims import Measured, Stat
from benchmarks.paper.studies import defense_label
from rflbat.data.registry import default_attack
from rflbat.defenses.rflbat import rflbat
from rflbat.report.tables import Table
from rflbat.storage.run_folder import RunFolder
from rflbat.sweep.cells import Cell

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
    *("dataset", "partition", "alpha", "malicious", "attack", "attack_start", "scale", "local_steps", "batch_size"),
    *("lr", "optimizer", "momentum", "clip_norm"),
    *("clients", "participants", "seed", "rounds", "drop_last"),
)
SETTINGS = ("settings", "study", *FIELDS, "defense", "clusters_by", "min_samples", "seconds")
LOCAL = tuple(f"local_attack_success_rate_{group}" for group in range(4))
FIRST = ("similarity_malicious", "similarity_honest")
COLUMNS = (*SETTINGS, *METRICS, *LOCAL, *FIRST)
CLUSTERS = signature(rflbat).parameters["clusters"].default


def row_of(study: str, cell: Cell, summary: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Build the CSV row of one run; a measure that does not exist is empty."""
    config = cell.experiment.to_dict()
    settings = {
        "study": study,
        **{key: config[key] for key in FIELDS},
        "defense": defense_label(config),
        "clusters_by": clusters_by(config["defense_args"]) if config["defense"] == "rflbat" else "",
        "min_samples": config["dataset_args"].get("min_samples", ""),
        "seconds": f"{summary['seconds']:.0f}",
    }
    settings["attack"] = settings["attack"] or default_attack(config["dataset"])
    local = dict(zip(LOCAL, summary.get("local_attack_success_rates") or [], strict=False))
    values = {**{key: summary[key] for key in METRICS}, **local}
    if config["attack"] == "dba" and config["defense"] == "rflbat":
        values |= first_similarities(folder, config["attack_start"])
    return {**settings, **{key: "" if value is None else f"{value:.6f}" for key, value in values.items()}}


def clusters_by(arguments: Mapping[str, Any]) -> str:
    """Name RFLBAT's rule for the number of clusters, with the smallest share of a cluster if one is set."""
    rule = str(arguments.get("clusters", CLUSTERS))
    return f"{rule}, at least {arguments['smallest']:.0%}" if arguments.get("smallest") else rule


def first_similarities(folder: Path, attack_start: int) -> dict[str, float]:
    """Compute the mean similarity v_j of malicious and of honest clients to their clusters, first attacked round."""
    rows = [row for row in RunFolder(folder).clients() if row["round"] == attack_start and row["cluster"] != -1]
    by_truth = {truth: [row["score"] for row in rows if row["malicious"] == truth] for truth in (True, False)}
    means = {name: by_truth[truth] for name, truth in zip(FIRST, (True, False), strict=True)}
    return {name: statistics.fmean(scores) for name, scores in means.items() if scores}


def _figure_3(cell: Cell) -> bool:
    config = cell.experiment
    return (config.partition, config.malicious, config.seed, config.defense_args) == ("dirichlet", 0.5, 0, {}) and (
        config.defense == "rflbat"
    )


def _figure_14(cell: Cell) -> bool:
    config = cell.experiment
    return (config.dataset, config.attack_start, config.seed) == ("mnist", 5, 0)


SCATTERED: dict[str, Callable[[Cell], bool]] = {"attackers": _figure_3, "distributed": _figure_14}
"""Study -> predicate: whether the PCA plane of a cell is drawn (figures 3 and 14)."""
SCATTER_COLUMNS = ("scale", "round", "client", "malicious", "stage", "x", "y")


def scatter_rows(cell: Cell, folder: Path) -> list[dict[str, Any]]:
    """List the PCA plane of round 10 of a run: one row for each client."""
    rows = []
    for row in RunFolder(folder).clients():
        if row["round"] == 10:
            x, y = row["coordinates"]
            truth = {"client": row["client"], "malicious": int(row["malicious"]), "stage": row["stage"]}
            place = {"x": f"{x:.6g}", "y": f"{y:.6g}"}
            rows.append({"scale": cell.experiment.scale, "round": row["round"], **truth, **place})
    return rows


def over_seeds(rows: Sequence[Mapping[str, str]], setting: str) -> Measured:
    """Average accuracy and attack success rate over seeds, in percent.

    Args:
        rows: rows of one study.
        setting: "malicious", "alpha" or "clients".

    Returns:
        (partition, setting, defense, metric) -> value over seeds.
    """
    values: dict[tuple[str, float, str, str], list[float]] = {}
    for row in rows:
        for metric in ("accuracy", "attack_success_rate"):
            key = (row["partition"], float(row[setting]), row["defense"], metric)
            values.setdefault(key, []).append(100 * float(row[metric]))
    return {key: stat(each) for key, each in values.items()}


def stat(values: Sequence[float]) -> Stat:
    """Summarise one value per seed."""
    return Stat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan, len(values))


def noise_table(rows: Sequence[Mapping[str, str]]) -> Table:
    """Tabulate the attack success of GeoMed and RFA by batch size, mean and standard deviation over seeds."""
    sizes = list(dict.fromkeys(row["batch_size"] for row in rows))
    cells: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        case = (row["defense"], "IID" if row["partition"] == "iid" else f"alpha {row['alpha']}")
        cells.setdefault(case, {}).setdefault(row["batch_size"], []).append(100 * float(row["attack_success_rate"]))
    body = [(*case, *(mean_and_spread(by_size[size]) for size in sizes)) for case, by_size in cells.items()]
    return Table("", ("defense", "partition", *(f"batch of {size}" for size in sizes)), body)


def with_spread(value: Stat) -> str:
    """Format mean ± standard deviation, or only the mean for one seed."""
    return f"{value.mean:.1f}" if math.isnan(value.spread) else f"{value.mean:.1f} ± {value.spread:.1f}"


def mean_and_spread(values: Sequence[float]) -> str:
    """Format mean ± sample standard deviation."""
    return with_spread(stat(values))


def rates_table(rows: Sequence[Mapping[str, str]], settings: tuple[str, ...]) -> Table:
    """Tabulate accuracy and attack success, mean and standard deviation over seeds, by some settings."""
    cases: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for row in rows:
        case = tuple(f"{float(row[key]):.0%}" if key == "malicious" else row[key] for key in settings)
        rates = (100 * float(row["attack_success_rate"]), 100 * float(row["accuracy"]))
        cases.setdefault(case, []).append(rates)
    body = [(*case, *map(mean_and_spread, zip(*rates, strict=True)), str(len(rates))) for case, rates in cases.items()]
    return Table("", (*settings, "attack success, %", "accuracy, %", "seeds"), body)


def clusters_table(rows: Sequence[Mapping[str, str]]) -> Table:
    """Tabulate accuracy / attack success by rule for the number of clusters: mean over seeds (worst seed)."""
    cells: dict[tuple[str, ...], dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        partition = {"iid": "IID", "natural": "natural"}.get(row["partition"], f"alpha {row['alpha']}")
        case = (row["dataset"], partition, f"{100 * float(row['malicious']):.0f} %")
        pair = (100 * float(row["accuracy"]), 100 * float(row["attack_success_rate"]))
        cells.setdefault(case, {}).setdefault(row["clusters_by"], []).append(pair)
    rules = list(dict.fromkeys(row["clusters_by"] for row in rows))
    body = []
    for case, by_rule in cells.items():
        texts = []
        for rule in rules:
            if rule not in by_rule:
                texts.append("")
                continue
            accuracy, attack = zip(*by_rule[rule], strict=True)
            text = f"{statistics.fmean(accuracy):.1f} / {statistics.fmean(attack):.1f} ({max(attack):.1f})"
            texts.append(f"**{text}**" if max(attack) > 5 else text)
        body.append((*case, *texts))
    totals = []
    for rule in rules:
        every = [pair for by_rule in cells.values() for pair in by_rule.get(rule, ())]
        broken = sum(attack > 5 for _, attack in every)
        totals.append(f"{broken} of {len(every)} runs broken, accuracy {statistics.fmean(a for a, _ in every):.1f}")
    return Table("", ("data", "partition", "malicious", *rules), [*body, ("all", "", "", *totals)])
