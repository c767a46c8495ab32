import csv
import io
import math
import statistics

import pytest
from rich.console import Console

from rflbat.report.tables import (
    Table,
    aggregate,
    closing_table,
    percent,
    sweep_table,
    sweep_values,
    to_csv,
    to_markdown,
    to_rich,
)
from rflbat.report.threats import with_accuracy_lost


def cell(accuracy, attack=0.01, **config):
    return {"defense": "rflbat", "seed": 0, "lr": 0.1} | config, {
        "accuracy": accuracy,
        "attack_success_rate": attack,
        "rounds": 50,
        "defense": config.get("defense", "rflbat"),
        "diverged": False,
    }


def test_the_closing_table_says_what_ran_and_what_came_out():
    config = {"dataset": "mnist", "defense": "rflbat", "malicious": 0.5, "model": None, "seed": 3, "lr": 0.1}
    summary = {
        "accuracy": 0.8912,
        "attack_success_rate": 0.0081,
        "attack_success_rate_inclusive": 0.1049,
        "precision": None,
        "recall": 1.0,
        "nonfinite": 3,
        "rounds_without_anybody": 0,
        "moves_discarded": 2,
        "rounds": 50,
        "seconds": 25.0,
    }
    rows = dict(closing_table({"config": config}, summary).rows)
    assert rows == {
        "Data set": "mnist",
        "Malicious": "50.0 %",
        "Defense": "rflbat",
        "Seed": "3",
        "Accuracy": "89.1 %",
        "Attack success rate": "0.8 %",
        "Attack success rate, inclusive": "10.5 %",
        "Malicious dropped (recall)": "100.0 %",
        "Non-finite local updates": "3",
        "Server updates discarded to keep the model finite": "2",
        "Rounds": "50",
        "Seconds": "25.0 (2.00 rounds a second)",
    }
    assert closing_table({}, {}).rows == []


def test_mean_and_sample_deviation_over_seeds():
    accuracies = {"rflbat": [0.88, 0.9, 0.875], "krum": [0.5, 0.6, 0.9]}
    cells = [cell(a, defense=name, seed=s) for name, values in accuracies.items() for s, a in enumerate(values)]
    rows = aggregate(cells)
    assert [row.settings for row in rows] == [{"defense": "krum"}, {"defense": "rflbat"}]
    for row in rows:
        values = accuracies[row.settings["defense"]]
        mean = sum(values) / 3
        assert row.seeds == 3
        assert row.mean["accuracy"] == pytest.approx(mean, rel=1e-15)
        assert row.sd["accuracy"] == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / 2), rel=1e-12)
        assert row.sd["attack_success_rate"] == 0
        assert set(row.mean) == {"accuracy", "attack_success_rate", "rounds"}


def test_one_seed_has_no_deviation_and_missing_numbers_are_left_out():
    [single] = aggregate([cell(0.9)])
    assert (single.seeds, single.sd["accuracy"]) == (1, None)
    [some] = aggregate([cell(0.8, None, seed=0), cell(0.9, 0.2, seed=1), cell(0.7, 0.4, seed=2)])
    assert some.mean["attack_success_rate"] == pytest.approx(0.3)
    assert some.sd["attack_success_rate"] == pytest.approx(statistics.stdev([0.2, 0.4]))
    [none] = aggregate([cell(0.8, None, seed=0), cell(0.9, None, seed=1)])
    assert none.mean["attack_success_rate"] is None
    assert none.sd["attack_success_rate"] is None


def test_settings_that_vary_become_columns_sorted_as_numbers():
    cells = [
        cell(0.9, defense=name, alpha=alpha, seed=seed, data_dir=f"/{seed}")
        for alpha in (10.0, 0.5, 2)
        for name in ("rflbat", "fedavg")
        for seed in (0, 1)
    ]
    rows = aggregate(cells)
    assert [(row.settings["alpha"], row.settings["defense"], row.seeds) for row in rows] == [
        (alpha, name, 2) for alpha in (0.5, 2, 10.0) for name in ("fedavg", "rflbat")
    ]
    assert set(rows[0].settings) == {"defense", "alpha"}


def test_parameters_that_go_with_the_defense_are_no_setting():
    arguments = {"krum": {"f": 3}, "rflbat": {"clusters": 2}}
    rows = aggregate([cell(0.9, defense=name, defense_args=values) for name, values in arguments.items()])
    assert [row.settings for row in rows] == [{"defense": "krum"}, {"defense": "rflbat"}]


def test_parameters_that_were_varied_are_a_setting():
    cells = [cell(0.9, defense_args={"clusters": k}, seed=s) for k in (2, 3) for s in (0, 1)]
    rows = aggregate([*cells, cell(0.5, defense="krum")])
    assert [(r.settings["defense"], r.settings["defense_args.clusters"], r.seeds) for r in rows] == [
        ("rflbat", 2, 2),
        ("rflbat", 3, 2),
        ("krum", None, 1),
    ]


def test_an_empty_sweep_is_an_empty_table():
    assert aggregate([]) == []
    assert sweep_table([]).rows == []
    assert to_csv(sweep_values([])) == "seeds\n"


def test_the_same_numbers_in_markdown_and_csv():
    rows = aggregate([cell(a, defense=name, seed=s) for name in ("krum", "rflbat") for s, a in enumerate((0.88, 0.9))])
    markdown = to_markdown(sweep_table(rows))
    assert markdown.splitlines()[0] == "| defense | seeds | Accuracy | Attack success rate |"
    assert markdown.splitlines()[2] == "| krum | 2 | 89.0 ± 1.4 % | 1.0 ± 0.0 % |"
    assert {line.count("|") for line in markdown.splitlines()} == {5}
    records = list(csv.DictReader(io.StringIO(to_csv(sweep_values(rows)))))
    assert [record["defense"] for record in records] == ["krum", "rflbat"]
    assert float(records[0]["accuracy_mean"]) == rows[0].mean["accuracy"]
    assert float(records[0]["accuracy_sd"]) == rows[0].sd["accuracy"]


def test_a_single_seed_has_an_empty_deviation_in_csv():
    [record] = csv.DictReader(io.StringIO(to_csv(sweep_values(aggregate([cell(0.9)])))))
    assert (record["accuracy_mean"], record["accuracy_sd"], record["seeds"]) == ("0.9", "", "1")


def test_awkward_text_survives_every_rendering():
    table = Table("t", ("name", "value"), [("a|b", "[red]x[/red]"), ('c,"d"', "e\nf")])
    assert list(csv.reader(io.StringIO(to_csv(table)))) == [
        ["name", "value"],
        ["a|b", "[red]x[/red]"],
        ['c,"d"', "e\nf"],
    ]
    assert "| a\\|b | [red]x[/red] |" in to_markdown(table)
    assert len(to_markdown(table).splitlines()) == 4
    console = Console(file=io.StringIO(), width=80)
    console.print(to_rich(table))
    assert "[red]x[/red]" in console.file.getvalue()


@pytest.mark.parametrize(("width", "columns"), [(200, 4), (50, 4), (49, 3), (40, 3), (39, 2), (10, 2)])
def test_a_narrow_terminal_gets_fewer_columns_and_no_broken_rows(width: int, columns: int) -> None:
    rows = [("multikrum", "0.5", "92.6 ± 1.2 %", "100.0 %"), ("krum", "0.1", "9.1 %", "–")]
    table = Table("t", ("defense", "malicious", "Accuracy", "Success rate"), rows)
    rich = to_rich(table, width)
    assert len(rich.columns) == columns
    console = Console(file=io.StringIO(), width=max(width, 26))
    console.print(rich)
    lines = console.file.getvalue().splitlines()
    for row in rows:
        [line] = [line for line in lines if f" {row[0]} " in line]
        assert [cell.strip() for cell in line.strip("│").split("│")] == list(row[:columns])


@pytest.mark.parametrize(
    ("mean", "sd", "text"),
    [
        (0.0, None, "0.0 %"),
        (1.0, 0.0, "100.0 ± 0.0 %"),
        (0.98765, 0.01239, "98.8 ± 1.2 %"),
        (None, None, "–"),
        (None, 0.1, "–"),
    ],
)
def test_percent(mean, sd, text):
    assert percent(mean, sd) == text


def attacked(attack, malicious, accuracy, success="untargeted", **more):
    config = {"attack": attack, "malicious": malicious, "defense": "krum", "seed": 0, "success": success, **more}
    return config, {"accuracy": accuracy}


def lost(cells):
    return [summary.get("accuracy_lost") for _, summary in with_accuracy_lost(cells)]


def test_accuracy_lost_is_against_the_run_of_the_same_seed_and_settings():
    cells = [
        *(attacked("ipm", 0.0, 0.5 + seed / 8, seed=seed) for seed in range(2)),
        *(attacked("ipm", 0.2, 0.25, seed=seed) for seed in range(2)),
        attacked("ipm", 0.2, 0.25, seed=2),  # no clean run of this seed
        attacked("ipm", 0.2, 0.25, lr=0.3),  # nor with this learning rate
        attacked("pixel", 0.2, 0.25, success="trigger"),
    ]
    assert lost(cells) == [None, None, 0.25, 0.375, None, None, None]
    assert lost([attacked("ipm", 0.2, 0.25)]) == [None]


def test_attacks_may_share_the_run_without_malicious_clients():
    clean = attacked("pixel", 0.0, 0.75, success="trigger", attack_args={}, scale=1.0)
    other = attacked("alie", 0.2, 0.5, attack_args={"z": 1.5}, scale=2.0)
    assert lost([clean, other]) == [None, 0.25]
    own = attacked("alie", 0.0, 0.625, attack_args={"z": 1.5}, scale=2.0)
    assert lost([clean, own, other]) == [None, None, 0.125]


def test_threat_models_are_columns_where_they_differ():
    cells = [attacked("ipm", 0.2, 0.5), attacked("pixel", 0.2, 0.5, success="trigger")]
    assert sweep_table(aggregate(cells)).columns[:4] == ("defense", "attack", "success", "seeds")
    assert sweep_table(aggregate(cells[:1] * 2)).columns[:2] == ("defense", "seeds")
