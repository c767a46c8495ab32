"""The sections of the page beyond MNIST's figures: figures 3, 5, 8, 9, 10, 13, 14, tables 1 to 3, and the boundary."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.paper.claims_beyond import (
    TABLE_3,
    comparisons_beyond,
    figure_8,
    figure_9,
    figure_10,
    figure_13,
)
from benchmarks.paper.measured import FIRST, LOCAL, claims_table, mean_and_spread, over_seeds, read_csv
from benchmarks.paper.pictures import bars
from benchmarks.paper.pictures_beyond import boundary_curves, clients_curve, scatter
from benchmarks.paper.scenarios import CLEAN_ROUNDS, SCALES
from rflbat.data.base import Dataset
from rflbat.models.registry import MODELS
from rflbat.recipes import GRIDS, RECIPES
from rflbat.results.tables import Table, to_markdown

Rows = Sequence[Mapping[str, str]]
PAPER_DATA = {"mnist": (10, 60000, 784, "LR"), "femnist": (62, 801074, 784, "CNN"), "amazon": (5, 80000, 100, "LSTM")}
SCENARIO_TABLE = (
    ("DNA", "10, 50, 90 % malicious clients", "all", ("dna", "dna-femnist", "dna-amazon")),
    ("DNS", "Dirichlet alpha from 0.1 to 2", "MNIST", ("dns",)),
    ("DNC", "50 to 1,600 clients", "FEMNIST", ("dnc",)),
    ("DBA", "four groups of 10 % with a local trigger each", "all", ("dba", "dba-femnist", "dba-amazon")),
)


def percent(row: Mapping[str, str], key: str) -> float:
    """Read a rate of a row in percent."""
    return 100 * float(row[key])


def table_1(datasets: Sequence[Dataset]) -> Table:
    """Table 1: data and models, the paper's and ours."""
    body = []
    for dataset in datasets:
        classes, size, features, model = PAPER_DATA[dataset.name]
        words = 0 if dataset.words is None else len(dataset.words)
        ours = MODELS[dataset.model](dataset.shape, dataset.classes, words)
        here = f"{dataset.classes} / {len(dataset.train_y):,} / {dataset.train_x[0].numel()} / {dataset.model}"
        body.append((dataset.name, f"{classes} / {size:,} / {features} / {model}", here, f"{ours.layout.size:,}"))
    columns = ("data", "paper: classes / size / features / model", "here", "parameters here")
    return Table("", columns, body)


def table_2() -> Table:
    """Table 2: the scenarios and their recipes."""
    body = []
    for name, what, data, recipes in SCENARIO_TABLE:
        varied = "; ".join(f"{key} = {', '.join(values)}" for key, values in GRIDS[recipes[0]].items())
        assert set(recipes) <= set(RECIPES)
        body.append((name, what, data, ", ".join(f"`rflbat sweep {recipe}`" for recipe in recipes), varied))
    return Table("", ("scenario", "paper", "data", "here", "varies"), body)


def table_3(rows: Rows) -> Table:
    """Table 3: the distributed backdoor under RFLBAT, paper / here, from the first round and after five clean ones."""
    body = []
    for claim in TABLE_3:
        for start in ("0", "5"):
            keys = (claim.dataset, claim.scale, start)
            mine = [row for row in rows if (row["dataset"], float(row["scale"]), row["attack_start"]) == keys]
            measures = ("accuracy", "attack_success_rate", *LOCAL)
            accuracy, full, *local = ([percent(row, key) for row in mine] for key in measures)
            means = [statistics.fmean(values) for values in (accuracy, full, *local)]
            body.append(
                (
                    claim.dataset,
                    f"{claim.scale:g}",
                    start,
                    f"{claim.accuracy:g} / {mean_and_spread(accuracy)}",
                    f"{claim.full:g} / {mean_and_spread(full)}",
                    ", ".join(f"{paper:g} / {here:.1f}" for paper, here in zip(claim.local, means[2:], strict=True)),
                    "holds" if claim.holds(means[0], means[1], means[2:]) else "**does not hold**",
                )
            )
    names = ("accuracy", "full trigger", "local triggers")
    heads = tuple(f"{name}, paper / here, %" for name in names)
    return Table("", ("data", "lambda", "clean rounds before", *heads, "claim"), body)


def boundary_table(rows: Rows) -> Table:
    """Where RFLBAT begins to hold: attack success after 20 rounds, and the similarities of the first attacked round."""
    cases: dict[tuple[str, str], dict[str, list[Mapping[str, str]]]] = {}
    for row in rows:
        case = (row["clusters_by"], row["local_steps"])
        cases.setdefault(case, {}).setdefault(row["attack_start"], []).append(row)
    body = []
    for (rule, steps), by_start in cases.items():
        texts = []
        for start in map(str, CLEAN_ROUNDS):
            attack = [percent(row, "attack_success_rate") for row in by_start[start]]
            malicious, honest = (statistics.fmean(float(row[key]) for row in by_start[start]) for key in FIRST)
            texts.append(f"{mean_and_spread(attack)} ({malicious:.2f}, {honest:.2f})")
        body.append((rule, steps, *texts))
    return Table("", ("clusters", "local steps", *(f"after {start} clean" for start in CLEAN_ROUNDS)), body)


def floor_table(rows: Rows) -> Table:
    """FedAvg that nobody attacks."""
    by_data: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        by_data.setdefault(row["dataset"], []).append(row)
    body = [
        (data, *(mean_and_spread([percent(row, key) for row in mine]) for key in ("accuracy", "attack_success_rate")))
        for data, mine in by_data.items()
    ]
    return Table("", ("data", "accuracy, %", "attack success of a clean model, %"), body)


def hundred_table(rows: Rows) -> Table:
    """RFLBAT beside FedAvg, 100 clients in every round."""
    body = []
    for row in rows:
        rates = (f"{percent(row, key):.1f}" for key in ("accuracy", "attack_success_rate", "malicious_weight"))
        body.append((row["dataset"], row["defense"], row["local_steps"], row["attack_start"], *rates))
    columns = (
        "data",
        "defense",
        "local steps",
        "clean rounds before",
        "accuracy, %",
        "attack success, %",
        "mean weight of the malicious, %",
    )
    return Table("", columns, body)


def without_defense(studies: Mapping[str, Rows]) -> Table:
    """FedAvg in the cells of figures 8 to 10."""
    body = []
    for name, rows in studies.items():
        for row in rows:
            if row["defense"] == "fedavg":
                case = (name, row["partition"], f"{percent(row, 'malicious'):.0f} %", row["seed"])
                body.append((*case, *(f"{percent(row, key):.1f}" for key in ("attack_success_rate", "accuracy"))))
    return Table("", ("data", "partition", "malicious", "seed", "attack success, %", "accuracy, %"), body)


def sections(results: Path, datasets: Sequence[Dataset], scale: str) -> dict[str, str]:
    """Write figures and give the page's sections beyond MNIST's figures 6, 7, 11 and 12.

    Args:
        results: folder of the CSV files, and of the figures.
        datasets: MNIST, FEMNIST and Amazon.
        scale: name of the scale that was run.

    Returns:
        mark of ``notes.md`` -> Markdown.
    """
    names = ("clean", "hundred", "femnist", "amazon", "federations", "distributed", "boundary")
    rows = {name: read_csv(results / f"{name}.csv") for name in names}
    femnist, amazon = over_seeds(rows["femnist"], "malicious"), over_seeds(rows["amazon"], "malicious")
    federations = over_seeds(rows["federations"], "clients")
    bars(rows["femnist"], results / "figure8.png")
    for number, partition in ((9, "iid"), (10, "dirichlet")):
        bars([row for row in rows["amazon"] if row["partition"] == partition], results / f"figure{number}.png")
    clients_curve(rows["federations"], results / "figure13.png")
    boundary_curves(rows["boundary"], results / "boundary.png")
    for number, study in ((3, "attackers"), (14, "distributed")):
        scatter(read_csv(results / f"scatter_{study}.csv"), results / f"figure{number}.png")

    clean = {row["dataset"]: percent(row, "accuracy") for row in rows["clean"] if row["seed"] == "0"}
    learned = {dataset: accuracy / 2 for dataset, accuracy in clean.items()}
    compared = [
        (figure, claim, here, "holds" if holds else "**does not hold**")
        for figure, claim, here, holds in comparisons_beyond(femnist, amazon, federations, clean)
    ]
    return {
        "{{says}}": SCALES[scale].says,
        "{{table_1}}": to_markdown(table_1(datasets)),
        "{{table_2}}": to_markdown(table_2()),
        "{{table_3}}": to_markdown(table_3(rows["distributed"])),
        "{{figure_8}}": to_markdown(claims_table(figure_8(), femnist, "malicious", learned["femnist"])),
        "{{figure_9}}": to_markdown(claims_table(figure_9(), amazon, "malicious")),
        "{{figure_10}}": to_markdown(claims_table(figure_10(), amazon, "malicious")),
        "{{figure_13}}": to_markdown(
            claims_table(figure_13(SCALES[scale].federations), federations, "clients", learned["femnist"])
        ),
        "{{boundary}}": to_markdown(boundary_table(rows["boundary"])),
        "{{clean}}": to_markdown(floor_table(rows["clean"])),
        "{{hundred}}": to_markdown(hundred_table(rows["hundred"])),
        "{{without}}": to_markdown(without_defense({name: rows[name] for name in ("femnist", "amazon")})),
        "{{comparisons_beyond}}": to_markdown(Table("", ("figure", "claim", "here", "verdict"), compared)),
    }
