"""The paper's experiments: cells, claims, verdicts, and that the committed page follows from the committed rows."""

import math
import re
from pathlib import Path

import pytest
from benchmarks.paper.__main__ import measure
from benchmarks.paper.beyond import boundary_table, table_2, table_3
from benchmarks.paper.claims import comparisons, defends, fails, figure_6, figure_7, figure_11, near
from benchmarks.paper.claims_beyond import TABLE_3, comparisons_beyond, figure_8, figure_9, figure_10, figure_13
from benchmarks.paper.ledger import ROUND_COLUMNS, Ledger, digest, read_csv
from benchmarks.paper.measured import COLUMNS, LOCAL, mean_and_spread, over_seeds
from benchmarks.paper.scenarios import CLEAN_ROUNDS, SCALES, scenarios
from benchmarks.paper.studies import ALPHAS, STUDIES, defense_label
from benchmarks.paper.verdicts import (
    DIFFERS,
    HOLDS,
    NOT_JUDGED,
    NOT_RUN,
    CleanRates,
    claims_table,
    clean_of,
    clean_rates,
    comparisons_table,
    count,
    evidence,
    judge,
)
from benchmarks.paper.where import WHERE, holds
from benchmarks.paper.where import table as where_table

from rflbat.experiment.config import Experiment
from rflbat.report.tables import Table
from rflbat.sweep.cells import make_cells

PAPER = Path(__file__).parents[2] / "benchmarks" / "paper"
RESULTS = PAPER / "results"
ROOT = PAPER.parents[1]
CELLS = {name: study(3) for name, study in {**STUDIES, **scenarios(SCALES["small"]), **WHERE}.items()}


@pytest.mark.parametrize("scale", SCALES)
def test_every_study_has_cells_of_names_of_their_own(scale):
    for name, study in {**STUDIES, **scenarios(SCALES[scale])}.items():
        names = [cell.name for cell in study(2)]
        assert names
        assert len(set(names)) == len(names), name


def test_every_experiment_has_a_hundred_clients_a_round_but_those_that_vary_them():
    for name in ("femnist", "amazon", "imdb", "distributed", "clean", "clusters_beyond", "outliers", "attackers"):
        told = {cell.experiment.participants or cell.experiment.clients for cell in CELLS[name]}
        assert told == {100}, name
    assert sorted({cell.experiment.clients for cell in CELLS["federations"]}) == [
        *(50, 100, 200, 265),
        *(400, 600, 800, 1200, 1600),
    ]


def test_the_full_scale_is_the_paper_s():
    full = SCALES["full"]
    assert [clients for clients, _, _ in full.federations] == [50, 100, 200, 400, 600, 800, 1600]
    assert {partition for _, partition, _ in full.federations} == {"natural"}
    cells = scenarios(full)["femnist"](3)
    assert {(cell.experiment.clients, cell.experiment.participants) for cell in cells} == {(3500, 100)}


# The rows as the record of finished runs.


def test_a_digest_names_the_settings_that_change_results():
    plain = Experiment(dataset="mnist", seed=1)
    assert digest(plain) == digest(plain.changed({"device": "cpu", "backend": "loop", "checkpoint_every": 3}))
    others = [plain.changed(change) for change in ({"seed": 2}, {"lr": 0.2}, {"defense_args": {"clusters": 2}})]
    assert len({digest(each) for each in (plain, *others)}) == 4
    assert re.fullmatch("[0-9a-f]{12}", digest(plain))


def test_a_run_with_a_row_is_not_run_again_and_a_new_one_is(tmp_path):
    base = Experiment(dataset="digits", clients=5, rounds=2, malicious=0.4, defense="fedavg", eval_every=2)
    cells = make_cells(base, {"defense": ["fedavg", "median"]}, 2)
    results, out = tmp_path / "results", tmp_path / "runs"
    assert measure("small", cells[:2], 1, out, results) == ""
    rows, rounds = read_csv(results / "small.csv"), read_csv(results / "rounds" / "small.csv")
    assert [(row["defense"], row["seed"], row["attack"]) for row in rows] == [
        ("fedavg", "0", "pixel"),
        ("fedavg", "1", "pixel"),
    ]
    assert tuple(rows[0]) == COLUMNS
    assert tuple(rounds[0]) == ROUND_COLUMNS
    assert [(row["round"], row["malicious"], row["malicious_kept"]) for row in rounds] == [
        ("0", "2", "2"),
        ("1", "2", "2"),
    ] * 2
    assert rounds[0]["accuracy"] == ""
    assert float(rounds[1]["accuracy"]) == pytest.approx(float(rows[0]["accuracy"]), abs=1e-4)
    # On another machine, without the run folders:
    ledger = Ledger("small", results, cells)
    assert [cell.name for cell in ledger.missing(cells)] == [cells[2].name, cells[3].name]
    assert measure("small", cells, 1, tmp_path / "elsewhere", results) == ""
    after = read_csv(results / "small.csv")
    assert after[:2] == rows
    assert [row["defense"] for row in after] == ["fedavg", "fedavg", "median", "median"]
    assert len(list((tmp_path / "elsewhere" / "small" / "cells").iterdir())) == 2


def test_the_first_seed_of_every_case_comes_before_the_second_of_any():
    cells = CELLS["femnist"]
    left = Ledger("none", RESULTS / "nowhere", cells).missing(cells)
    assert [cell.experiment.seed for cell in left] == sorted(cell.experiment.seed for cell in cells)


# Claims and verdicts.


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
    assert mnist.holds(99.2, 0.0, (0.0, 0.0, 0.0, 0.0))  # better than the paper's is no failure
    assert not mnist.holds(89.1, 10.9, mnist.local)
    assert not mnist.holds(89.1, 0.8, (*mnist.local[:3], 11.0))
    assert mnist.holds(89.1, 10.9, mnist.local, floor=2.0)


def row(**values):
    told = {"partition": "iid", "malicious": "0.5", "defense": "rflbat", "malicious_weight": "0.25", "settings": "a"}
    return {**told, "accuracy": "0.9", "attack_success_rate": "0.01", **values}


def test_means_verdicts_and_evidence_of_a_table():
    rows = [row(), row(accuracy="0.8", attack_success_rate="0.03"), row(defense="rfa", attack_success_rate="0.5")]
    rounds = [
        {"settings": "a", "round": number, "malicious": count, "malicious_kept": kept}
        for number, count, kept in (("0", "0", "0"), ("1", "5", "5"), ("2", "5", "0"))
    ]
    claims = [defends(6, "iid", 0.5, "rflbat"), fails(6, "iid", 0.5, "rfa"), fails(6, "iid", 0.9, "rfa")]
    table = claims_table(claims, rows, "malicious", lambda claim: CleanRates(90.0, 1.0), rounds)
    held = "malicious clients hold 25 % of the weight on average; kept in 1 of 2 rounds, last in round 1"
    assert table.rows == [
        ("rflbat", "50%", "defends", "2.0 ± 1.4", "85.0 ± 7.1", "2", HOLDS, ""),
        ("rfa", "50%", "about 100 (fails)", "50.0", "90.0", "1", DIFFERS, held),
        ("rfa", "90%", "about 100 (fails)", "", "", "", NOT_RUN, ""),
    ]
    assert mean_and_spread([3.0]) == "3.0"
    assert evidence([row(malicious_weight="")], ()) == ""


@pytest.mark.parametrize(
    ("agrees", "accuracy", "attack", "clean", "verdict"),
    [
        (True, 72.0, 1.0, 90.0, HOLDS),
        (False, 72.0, 50.0, 90.0, DIFFERS),
        (True, 71.9, 1.0, 90.0, NOT_JUDGED),
        (False, 71.9, 89.9, 90.0, NOT_JUDGED),
        (True, 20.0, 90.0, 90.0, HOLDS),
        (False, 20.0, 100.0, 90.0, DIFFERS),
        (True, 90.0, 1.0, math.nan, NOT_JUDGED),
    ],
)
def test_a_claim_is_judged_on_a_model_that_has_learned_or_that_the_attack_kept_from_it(
    agrees, accuracy, attack, clean, verdict
):
    assert judge(agrees, accuracy, attack, clean)[0] == verdict


def test_the_clean_rates_are_those_of_the_claims_own_partition():
    runs = [
        ("mnist", "iid", "1.0", "0.90"),
        ("mnist", "dirichlet", "0.5", "0.80"),
        ("mnist", "dirichlet", "0.1", "0.60"),
        ("femnist", "natural", "1.0", "0.70"),
    ]
    columns = ("dataset", "partition", "alpha", "accuracy")
    rows = [{**dict(zip(columns, run, strict=True)), "attack_success_rate": "0.13"} for run in runs]
    clean = clean_of(clean_rates(rows), "mnist")
    told = [defends(6, "iid", 0.9, "krum"), defends(7, "dirichlet", 0.9, "krum"), defends(11, "dirichlet", 0.1, "krum")]
    assert [clean(claim).accuracy for claim in told] == pytest.approx([90.0, 80.0, 60.0])
    assert clean(told[0]).success == pytest.approx(13.0)
    assert math.isnan(clean(defends(11, "dirichlet", 2.0, "krum")).accuracy)
    writers = clean_of(clean_rates(rows), "femnist")
    assert writers(defends(13, "dirichlet", 400.0, "krum")).accuracy == pytest.approx(70.0)


def test_a_defense_is_judged_by_what_the_attack_adds():
    """On texts a model without an attack answers 13 % of the triggered samples with the target class."""
    run = {"partition": "iid", "malicious": "0.5", "defense": "krum", "accuracy": "0.38", "malicious_weight": "0.0"}
    for success, verdict in (("0.17", HOLDS), ("0.19", DIFFERS)):
        rows = [{**run, "attack_success_rate": success, "settings": "a", "seed": "0", "defense_args": ""}]
        table = claims_table([defends(9, "iid", 0.5, "krum")], rows, "malicious", lambda claim: CleanRates(40.0, 13.0))
        assert table.rows[0][table.columns.index("verdict")] == verdict


def test_a_comparison_whose_runs_are_missing_says_so():
    table = comparisons_table([("1", "yes", lambda: ("1 < 2", True)), ("2", "no", lambda: {}["gone"])])
    assert table.rows == [("1", "yes", "1 < 2", HOLDS), ("2", "no", "", NOT_RUN)]
    both = Table("", ("a", "verdict"), [("x", DIFFERS), ("y", NOT_JUDGED)])
    assert count([table, both, Table("", ("a",), [("z",)])]) == (
        "Of 4 claims 1 holds, 1 does not hold, 1 could not be judged and 1 is not run yet."
    )


def test_table_3_averages_over_seeds_and_keeps_the_starts_apart():
    rates = {
        "accuracy": "0.89",
        "attack_success_rate": "0.01",
        **dict.fromkeys(LOCAL, "0.01"),
        "malicious_weight": "0.5",
    }
    failing = {**rates, "attack_success_rate": "1.0"}
    rows = [
        {
            "settings": "a",
            "dataset": name,
            "scale": "1.0",
            "attack_start": start,
            **(rates if start == "5" else failing),
        }
        for name in ("mnist", "imdb")
        for start in ("0", "5")
    ]
    body = table_3(rows, [], clean_rates([])).rows
    assert [each[:3] for each in body[:2]] == [("mnist", "1", "0"), ("mnist", "1", "5")]
    assert [each[-2] for each in body[:4]] == [DIFFERS, HOLDS, NOT_RUN, NOT_RUN]
    assert body[1][5] == ", ".join(["0.8 / 1.0"] * 4)
    assert [each[-2] for each in body if each[0] == "imdb"] == [""] * 4
    assert body[0][-1] == "malicious clients hold 50 % of the weight on average"
    assert len(body) == 2 * (len(TABLE_3) + 2)


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


@pytest.mark.parametrize("name", CELLS)
def test_the_committed_rows_are_of_the_study_s_cells(name):
    rows = read_csv(RESULTS / f"{name}.csv")
    known = {digest(cell.experiment): cell.experiment for cell in CELLS[name]}
    assert all(list(each) == list(COLUMNS) for each in rows)
    assert len({each["settings"] for each in rows}) == len(rows)
    for each in rows:
        told = known[each["settings"]]
        assert (each["dataset"], float(each["malicious"])) == (told.dataset, told.malicious)
        assert (int(each["seed"]), int(each["rounds"])) == (told.seed, told.rounds)
    rounds = read_csv(RESULTS / "rounds" / f"{name}.csv")
    assert {each["settings"] for each in rounds} <= set(known)
    if name in STUDIES:
        assert {each["settings"] for each in rows} == set(known)


def test_the_committed_page_follows_from_the_committed_rows():
    """Neither a table nor a figure of the paper is left out, and no mark of the template is left open."""
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert "{{" not in page
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page):
        assert (RESULTS / picture).exists(), picture
    for number in range(5, 15):
        assert f"figure{number}.png" in page or f"figure {number}" in page.lower()
    for table in (1, 2, 3):
        assert re.search(rf"^## Table {table}: ", page, re.MULTILINE)
    rows = {name: read_csv(RESULTS / f"{name}.csv") for name in CELLS}
    rounds = {name: read_csv(RESULTS / "rounds" / f"{name}.csv") for name in CELLS}
    digits, writers, texts = (clean_of(clean_rates(rows["clean"]), name) for name in ("mnist", "femnist", "amazon"))
    for claims, study, setting, clean in (
        (figure_6() + figure_7(), "attackers", "malicious", digits),
        (figure_11(ALPHAS), "non_iid", "alpha", digits),
        (figure_8(), "femnist", "malicious", writers),
        (figure_9() + figure_10(), "amazon", "malicious", texts),
        (figure_13(SCALES["small"].federations), "federations", "clients", writers),
    ):
        for each in claims_table(claims, rows[study], setting, clean, rounds[study]).rows:
            assert " | ".join(each) in page
    measured = {name: over_seeds(rows[name], "malicious") for name in ("attackers", "femnist", "amazon")}
    by_alpha, by_clients = over_seeds(rows["non_iid"], "alpha"), over_seeds(rows["federations"], "clients")
    spread = dict.fromkeys(ALPHAS, 1.0)
    compared = [
        *comparisons(measured["attackers"], by_alpha, spread),
        *comparisons_beyond(measured["femnist"], measured["amazon"], by_clients, {}, [50]),
    ]
    assert all(claim in page for _, claim, _ in compared)


def test_the_readme_names_the_count_of_claims():
    page = " ".join((RESULTS / "README.md").read_text(encoding="utf-8").split())
    counted = re.search(r"Of \d+ claims [^.]*\.", page)
    assert counted is not None
    assert counted[0] in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_a_wrecked_model_is_no_model_on_which_rflbat_holds():
    quiet = {"dataset": "mnist", "partition": "iid", "alpha": "1.0", "accuracy": "0.9", "attack_success_rate": "0.01"}
    clean = clean_rates([quiet])
    case = {"dataset": "mnist", "alpha": "1.0", "attack": "dba", "scale": "10.0", "attack_start": "0", "clients": "20"}
    runs = [
        row(**case, participants="", accuracy=accuracy, attack_success_rate=success)
        for accuracy, success in (("0.083", "0.0"), ("0.72", "0.05"), ("0.9", "0.06"))
    ]
    assert [holds(run, clean) for run in runs] == [False, True, False]
    (line,) = where_table(runs, clean).rows
    assert line == ("dba, lambda 10", "cold start", "iid", "1 of 3", "56.8", "50%, 50% of 20")
    assert not holds({**runs[1], "partition": "natural"}, clean)
