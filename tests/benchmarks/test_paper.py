"""The paper's experiments: cells, claims, and that the committed page has a row for every table and figure."""

import re
from pathlib import Path

import pytest
from benchmarks.paper.beyond import boundary_table, table_2, table_3
from benchmarks.paper.claims import comparisons, defends, fails, figure_6, figure_7, figure_11, near
from benchmarks.paper.claims_beyond import TABLE_3, comparisons_beyond, figure_8, figure_9, figure_10, figure_13
from benchmarks.paper.measured import COLUMNS, LOCAL, claims_table, mean_and_spread, over_seeds, read_csv
from benchmarks.paper.scenarios import CLEAN_ROUNDS, SCALES, scenarios
from benchmarks.paper.studies import ALPHAS, STUDIES, defense_label

PAPER = Path(__file__).parents[2] / "benchmarks" / "paper"
RESULTS = PAPER / "results"
NAMES = [*STUDIES, *scenarios(SCALES["small"])]


@pytest.mark.parametrize("scale", SCALES)
def test_every_study_has_cells_of_names_of_their_own(scale):
    for name, study in {**STUDIES, **scenarios(SCALES[scale])}.items():
        names = [cell.name for cell in study(2)]
        assert names
        assert len(set(names)) == len(names), name


def test_the_full_scale_is_the_paper_s():
    full = SCALES["full"]
    assert [clients for clients, _ in full.federations] == [50, 100, 200, 400, 600, 800, 1600]
    assert {partition for _, partition in full.federations} == {"natural"}
    assert (full.femnist["clients"], full.femnist["participants"], full.amazon["clients"]) == (3500, 100, 100)


@pytest.mark.parametrize(
    ("claim", "agree", "differ"),
    [
        (defends(6, "iid", 0.1, "rflbat"), (0.0, 5.0), (5.1, 100.0)),
        (fails(6, "iid", 0.5, "rfa"), (90.0, 100.0), (89.9, 0.0)),
        (near(7, "dirichlet", 0.1, "rfa", 71.4), (61.5, 81.3), (61.3, 81.5)),
    ],
)
def test_when_a_claim_holds(claim, agree, differ):
    assert [claim.holds(value) for value in (*agree, *differ)] == [True, True, False, False]


def test_a_row_of_table_3_holds_if_every_rate_is_near():
    mnist = TABLE_3[0]
    assert mnist.holds(89.1, 0.8, mnist.local)
    assert not mnist.holds(79.0, 0.8, mnist.local)
    assert not mnist.holds(89.1, 10.9, mnist.local)
    assert not mnist.holds(89.1, 0.8, (*mnist.local[:3], 11.0))


def test_means_and_verdicts_of_a_table():
    rows = [
        {"partition": "iid", "malicious": "0.5", "defense": "rflbat", "accuracy": a, "attack_success_rate": s}
        for a, s in (("0.9", "0.01"), ("0.8", "0.03"))
    ]
    table = claims_table([defends(6, "iid", 0.5, "rflbat")], over_seeds(rows, "malicious"), "malicious")
    assert table.rows == [("rflbat", "50 %", "defends", "2.0 ± 1.4", "", "holds", "85.0 ± 7.1")]
    assert mean_and_spread([3.0]) == "3.0"


def test_low_attack_success_of_a_model_that_has_learned_nothing_is_not_judged():
    measured = {
        ("iid", 0.5, name, metric): (value, 0.0)
        for name in ("rflbat", "rfa")
        for metric, value in (("accuracy", 10.0), ("attack_success_rate", 0.0))
    }
    claims = [defends(8, "iid", 0.5, "rflbat"), fails(8, "iid", 0.5, "rfa")]
    verdicts = [row[5] for row in claims_table(claims, measured, "malicious", learned=20.0).rows]
    assert verdicts == ["not judged: accuracy too low", "**does not hold**"]
    assert claims_table(claims, measured, "malicious", learned=9.0).rows[0][5] == "holds"


def test_table_3_averages_over_seeds_and_keeps_the_starts_apart():
    rates = {"accuracy": "0.89", "attack_success_rate": "0.01", **dict.fromkeys(LOCAL, "0.01")}
    failing = {**rates, "attack_success_rate": "1.0"}
    rows = [
        {
            "dataset": claim.dataset,
            "scale": str(claim.scale),
            "attack_start": start,
            **(rates if start == "5" else failing),
        }
        for claim in TABLE_3
        for start in ("0", "5")
    ]
    body = table_3(rows).rows
    assert [row[:3] for row in body[:2]] == [("mnist", "1", "0"), ("mnist", "1", "5")]
    assert [row[-1] for row in body[:4]] == ["**does not hold**", "holds"] * 2
    assert body[1][5] == ", ".join(["0.8 / 1.0"] * 4)


def test_the_boundary_shows_attack_and_similarities():
    rows = [
        {
            "clusters_by": "2",
            "local_steps": "10",
            "attack_start": str(start),
            "attack_success_rate": "0.5",
            "similarity_malicious": "0.75",
            "similarity_honest": "0.25",
        }
        for start in CLEAN_ROUNDS
    ]
    assert boundary_table(rows).rows == [("2", "10", *["50.0 (0.75, 0.25)"] * len(CLEAN_ROUNDS))]


def test_scenarios_name_their_recipes():
    assert [row[0] for row in table_2().rows] == ["DNA", "DNS", "DNC", "DBA"]


@pytest.mark.parametrize(
    ("config", "label"),
    [
        ({"defense": "rflbat", "defense_args": {}, "roles": "redrawn"}, "rflbat"),
        ({"defense": "rflbat", "defense_args": {"clusters": 2}, "roles": "redrawn"}, "rflbat, 2 clusters"),
        ({"defense": "foolsgold", "defense_args": {"memory": False}, "roles": "redrawn"}, "foolsgold, no memory"),
        ({"defense": "foolsgold", "defense_args": {}, "roles": "fixed"}, "foolsgold, fixed roles"),
        ({"defense": "multikrum", "defense_args": {"f": "true"}, "roles": "redrawn"}, "multikrum"),
    ],
)
def test_labels_of_variants(config, label):
    assert defense_label(config) == label


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_results_are_of_the_study_s_cells(name):
    rows = read_csv(RESULTS / f"{name}.csv")
    cells = {**STUDIES, **scenarios(SCALES["small"])}[name](3)
    assert list(rows[0]) == list(COLUMNS)
    settings = [(row["dataset"], float(row["malicious"]), int(row["seed"]), int(row["rounds"])) for row in rows]
    told = [cell.experiment for cell in cells]
    assert settings == [(cell.dataset, cell.malicious, cell.seed, cell.rounds) for cell in told]


def test_every_claim_has_its_number_and_every_number_its_row():
    """Neither a table nor a figure of the paper is left out, and no mark of the template is left open."""
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert "{{" not in page
    for figure in (3, *range(5, 15)):
        assert f"figure{figure}.png" in page
        assert (RESULTS / f"figure{figure}.png").exists()
    for table in (1, 2, 3):
        assert re.search(rf"^## Table {table}: ", page, re.MULTILINE)
    studies = {name: read_csv(RESULTS / f"{name}.csv") for name in NAMES}
    by_share = over_seeds(studies["attackers"], "malicious")
    by_alpha = over_seeds(studies["non_iid"], "alpha")
    femnist, amazon = (over_seeds(studies[name], "malicious") for name in ("femnist", "amazon"))
    federations = over_seeds(studies["federations"], "clients")
    clean = {row["dataset"]: 100 * float(row["accuracy"]) for row in studies["clean"] if row["seed"] == "0"}
    half = clean["femnist"] / 2
    for claims, measured, setting, learned in (
        (figure_6() + figure_7(), by_share, "malicious", 0.0),
        (figure_11(ALPHAS), by_alpha, "alpha", 0.0),
        (figure_8(), femnist, "malicious", half),
        (figure_9() + figure_10(), amazon, "malicious", 0.0),
        (figure_13(SCALES["small"].federations), federations, "clients", half),
    ):
        for row in claims_table(claims, measured, setting, learned).rows:
            assert " | ".join(row) in page
    spread = dict.fromkeys(ALPHAS, 1.0)
    for _, claim, _, _ in comparisons(by_share, by_alpha, spread) + comparisons_beyond(
        femnist, amazon, federations, clean
    ):
        assert claim in page
