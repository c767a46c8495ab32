"""Sections of the page beyond MNIST's figures: figures 3, 5, 8, 9, 10, 13, 14, tables 1 to 3, and the boundary."""

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.paper.claims_beyond import (
    TABLE_3,
    comparisons_beyond,
    figure_8,
    figure_9,
    figure_10,
    figure_13,
)
from benchmarks.paper.ledger import read_csv
from benchmarks.paper.measured import FIRST, LOCAL, clusters_table, mean_and_spread, over_seeds, rates_table
from benchmarks.paper.pictures import bars
from benchmarks.paper.pictures_beyond import boundary_curves, clients_curve, scatter
from benchmarks.paper.scenarios import CLEAN_ROUNDS, LAMBDAS, SCALES, SCENARIOS
from benchmarks.paper.verdicts import (
    DIFFERS,
    HOLDS,
    NOT_RUN,
    VERDICT,
    Clean,
    Rows,
    claims_table,
    clean_of,
    clean_rates,
    comparisons_table,
    evidence,
)
from benchmarks.paper.where import WHERE, picture
from benchmarks.paper.where import table as where_table
from rflbat.data.base import Dataset
from rflbat.experiment.recipes import RECIPES
from rflbat.models.registry import MODELS
from rflbat.report.tables import Table

PAPER_DATA = {"mnist": (10, 60000, 784, "LR"), "femnist": (62, 801074, 784, "CNN"), "amazon": (5, 80000, 100, "LSTM")}
SCENARIO_TABLE = (
    ("DNA", "10, 50, 90 % malicious clients", "all", ("dna", "dna-femnist", "dna-amazon")),
    ("DNS", "Dirichlet alpha from 0.1 to 2", "MNIST", ("dns",)),
    ("DNC", "50 to 1,600 clients", "FEMNIST", ("dnc",)),
    ("DBA", "four groups of 10 % with a local trigger each", "all", ("dba", "dba-femnist", "dba-amazon")),
)
NO_RUNS = "The runs on FEMNIST (`where_femnist`) are not made yet."


def percent(row: Mapping[str, str], key: str) -> float:
    """Read a rate of a row in percent."""
    return 100 * float(row[key])


def table_1(datasets: Sequence[Dataset]) -> Table:
    """Build table 1: data and models, the paper's and ours."""
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
    """Build table 2: the scenarios and their recipes."""
    body = []
    for name, what, data, recipes in SCENARIO_TABLE:
        varied = "; ".join(f"{key} = {', '.join(values)}" for key, values in RECIPES[recipes[0]].grid.items())
        assert set(recipes) <= set(RECIPES)
        body.append((name, what, data, ", ".join(f"`rflbat sweep {recipe}`" for recipe in recipes), varied))
    return Table("", ("scenario", "paper", "data", "here", "varies"), body)


def settings_table() -> Table:
    """List the settings of each data set's recipe."""
    names = ("mnist", "femnist", "amazon", "imdb")
    told = [RECIPES[name]() for name in names]
    lines: dict[str, list[str]] = {
        "clients, participants in a round": [f"{each.clients}, {each.participants or each.clients}" for each in told],
        "optimizer, learning rate": [f"{each.optimizer}, {each.lr:g}" for each in told],
        "local steps x batch": [f"{each.local_steps} x {each.batch_size}" for each in told],
        "last batch of an epoch": ["left out if short" if each.drop_last else "may be short" for each in told],
        "rounds": [str(each.rounds) for each in told],
    }
    return Table("", ("", *names), [(name, *values) for name, values in lines.items()])


def table_3(rows: Rows, rounds: Rows, clean: Clean) -> Table:
    """Build table 3: the distributed backdoor under RFLBAT, paper / here, from round 0 and after five clean rounds.

    Accuracy is part of these claims, so all of them are judged: a model wrecked by the attack does not agree.

    Args:
        rows: runs of the study ``distributed``.
        rounds: its rounds.
        clean: rates without an attack.

    Returns:
        the table; IMDB is not in the paper and has no verdict.
    """
    body = []
    paper = {(claim.dataset, claim.scale): claim for claim in TABLE_3}
    for dataset, scale in (*paper, *(("imdb", scale) for scale in LAMBDAS)):
        claim = paper.get((dataset, scale))
        told = ("", "", ("",) * 4) if claim is None else (claim.accuracy, claim.full, claim.local)
        for start in ("0", "5"):
            keys = (dataset, scale, start)
            mine = [row for row in rows if (row["dataset"], float(row["scale"]), row["attack_start"]) == keys]
            if not mine:
                body.append(
                    (dataset, f"{scale:g}", start, str(told[0]), str(told[1]), "", "", NOT_RUN if claim else "", "")
                )
                continue
            measures = ("accuracy", "attack_success_rate", *LOCAL)
            accuracy, full, *local = ([percent(row, key) for row in mine] for key in measures)
            means = [statistics.fmean(values) for values in (accuracy, full, *local)]
            verdict, reason = "", ""
            if claim is not None:
                quiet = clean(dataset, "natural" if dataset == "femnist" else "iid", 1.0).success
                floor = 0.0 if math.isnan(quiet) else quiet
                verdict = HOLDS if claim.holds(means[0], means[1], means[2:], floor) else DIFFERS
                reason = evidence(mine, rounds) if verdict == DIFFERS else ""
            body.append(
                (
                    dataset,
                    f"{scale:g}",
                    start,
                    f"{told[0]} / {mean_and_spread(accuracy)}",
                    f"{told[1]} / {mean_and_spread(full)}",
                    ", ".join(f"{each} / {here:.1f}" for each, here in zip(told[2], means[2:], strict=True)),
                    str(len(mine)),
                    verdict,
                    reason,
                )
            )
    names = ("accuracy", "full trigger", "local triggers")
    heads = tuple(f"{name}, paper / here, %" for name in names)
    return Table("", ("data", "lambda", "clean rounds before", *heads, "seeds", VERDICT, "reason"), body)


def boundary_table(rows: Rows) -> Table:
    """Tabulate where RFLBAT begins to hold: attack success, and similarities in the first attacked round."""
    cases: dict[tuple[str, str], dict[str, list[Mapping[str, str]]]] = {}
    for row in rows:
        case = (row["clusters_by"], row["local_steps"])
        cases.setdefault(case, {}).setdefault(row["attack_start"], []).append(row)
    body = []
    for (rule, steps), by_start in cases.items():
        texts = []
        for start in map(str, CLEAN_ROUNDS):
            if start not in by_start:
                texts.append("")
                continue
            attack = [percent(row, "attack_success_rate") for row in by_start[start]]
            malicious, honest = (statistics.fmean(float(row[key]) for row in by_start[start]) for key in FIRST)
            texts.append(f"{mean_and_spread(attack)} ({malicious:.2f}, {honest:.2f})")
        body.append((rule, steps, *texts))
    return Table("", ("clusters", "local steps", *(f"after {start} clean" for start in CLEAN_ROUNDS)), body)


def learning_table(rounds: Rows, rows: Rows, central: Rows, bayes: Rows) -> Table:
    """Tabulate the accuracy of FedAvg without an attack over the rounds, one central model, and naive Bayes.

    Args:
        rounds: rounds of the study ``clean``.
        rows: runs of the study ``clean``.
        central: runs of the study ``central``.
        bayes: rows (data, accuracy) of the naive Bayes classifier.

    Returns:
        one row for each data set and partition, mean over seeds, percent.
    """
    cases: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        alpha = f" {row['alpha']}" if row["partition"] == "dirichlet" else ""
        cases.setdefault((row["dataset"], row["partition"] + alpha), []).append(row["settings"])
    at = (10, 20, 30, 40, 50, 60)
    body = []
    for (dataset, partition), runs in cases.items():
        curve = []
        for number in at:
            found = [
                percent(row, "accuracy")
                for row in rounds
                if row["settings"] in runs and int(row["round"]) == number - 1 and row["accuracy"]
            ]
            curve.append(f"{statistics.fmean(found):.1f}" if found else "")
        last = mean_and_spread([percent(row, "accuracy") for row in rows if row["settings"] in runs])
        success = mean_and_spread([percent(row, "attack_success_rate") for row in rows if row["settings"] in runs])
        alone = [percent(row, "accuracy") for row in central if row["dataset"] == dataset]
        counted = [percent(row, "accuracy") for row in bayes if row["dataset"] == dataset]
        others = (mean_and_spread(values) if values else "" for values in (alone, counted))
        body.append((dataset, partition, *curve, last, success, *others))
    heads = (
        *(f"after {number} rounds" for number in at),
        "at the end",
        "attack success at the end",
        "one model",
        "naive Bayes",
    )
    return Table("", ("data", "partition", *heads), body)


def optimizers_table(rows: Rows, rounds: Rows) -> Table:
    """Tabulate the accuracy of FedAvg without an attack by the clients' optimizer, every second of ten rounds."""
    at, body = range(2, 11, 2), []
    for row in rows:
        curve = {int(each["round"]) + 1: each["accuracy"] for each in rounds if each["settings"] == row["settings"]}
        told = (row["dataset"], row["optimizer"], row["lr"], row["momentum"], row["clip_norm"] or "none")
        body.append((*told, *(f"{100 * float(curve[number]):.1f}" if curve.get(number) else "" for number in at)))
    heads = ("data", "optimizer", "learning rate", "momentum", "clipped at", *(f"round {number}" for number in at))
    return Table("", heads, body)


def sections(results: Path, datasets: Sequence[Dataset], scale: str) -> dict[str, Table | str]:
    """Draw figures and build the page's tables beyond MNIST's figures 6, 7, 11 and 12.

    Args:
        results: folder of the CSV files, and of the figures.
        datasets: MNIST, FEMNIST and Amazon.
        scale: name of the scale of the runs.

    Returns:
        mark of ``notes.md`` -> table or text.
    """
    rows = {name: read_csv(results / f"{name}.csv") for name in (*SCENARIOS, *WHERE, "naive_bayes")}
    rounds = {name: read_csv(results / "rounds" / f"{name}.csv") for name in SCENARIOS}
    clean_at = clean_rates(rows["clean"])
    _pictures(results, rows, clean_at)
    clean = {
        dataset: statistics.fmean([percent(row, "accuracy") for row in rows["clean"] if row["dataset"] == dataset])
        for dataset in {row["dataset"] for row in rows["clean"] if row["partition"] != "dirichlet"}
    }
    by_share = {name: over_seeds(rows[name], "malicious") for name in ("femnist", "amazon")}
    federations = over_seeds(rows["federations"], "clients")
    sizes = [clients for clients, _, _ in SCALES[scale].federations]
    compared = comparisons_beyond(by_share["femnist"], by_share["amazon"], federations, clean, sizes)
    texts = clean_of(clean_at, "amazon")
    writers = clean_of(clean_at, "femnist")
    line_up = ("partition", "malicious", "defense")
    size = SCALES[scale]
    return {
        "says": size.says,
        "table_1": table_1(datasets),
        "table_2": table_2(),
        "settings": settings_table(),
        "table_3": table_3(rows["distributed"], rounds["distributed"], clean_at),
        "figure_8": claims_table(figure_8(), rows["femnist"], "malicious", writers, rounds["femnist"]),
        "figure_9": claims_table(figure_9(), rows["amazon"], "malicious", texts, rounds["amazon"]),
        "figure_10": claims_table(figure_10(), rows["amazon"], "malicious", texts, rounds["amazon"]),
        "figure_13": claims_table(
            figure_13(size.federations), rows["federations"], "clients", writers, rounds["federations"]
        ),
        "imdb": rates_table(rows["imdb"], line_up),
        "boundary": boundary_table(rows["boundary"]),
        "learning": learning_table(rounds["clean"], rows["clean"], rows["central"], rows["naive_bayes"]),
        "clusters_beyond": clusters_table(rows["clusters_beyond"]),
        "outliers": rates_table(rows["outliers"], ("min_samples", "drop_last", "defense", "malicious")),
        "without": rates_table(
            [row for name in ("femnist", "amazon") for row in rows[name] if row["defense"] == "fedavg"],
            ("dataset", "partition", "malicious"),
        ),
        "optimizers": optimizers_table(rows["optimizers"], rounds["optimizers"]),
        "comparisons_beyond": comparisons_table(compared),
        **{name: where_table(rows[name], clean_at) if rows[name] else NO_RUNS for name in WHERE},
    }


def _pictures(results: Path, rows: Mapping[str, Rows], clean: Clean) -> None:
    """Draw the figures whose runs are finished; delete earlier pictures of other runs."""
    drawn = {
        "figure8": (bars, rows["femnist"]),
        "figure9": (bars, [row for row in rows["amazon"] if row["partition"] == "iid"]),
        "figure10": (bars, [row for row in rows["amazon"] if row["partition"] == "dirichlet"]),
        "imdb": (bars, [row for row in rows["imdb"] if row["partition"] == "iid"]),
        "figure13": (clients_curve, rows["federations"]),
        "boundary": (boundary_curves, rows["boundary"]),
        **{name: (partial(picture, clean=clean), rows[name]) for name in WHERE},
        "figure3": (scatter, read_csv(results / "scatter_attackers.csv")),
        "figure14": (scatter, read_csv(results / "scatter_distributed.csv")),
    }
    for name, (draw, own) in drawn.items():
        path = results / f"{name}.png"
        path.unlink(missing_ok=True)
        if own:
            draw(own, path)
