"""Shadow defenses: they decide as they would on their own, remember, survive a stop, and touch nothing.

Legend of the suffixes: N clients of the round, D parameters.
"""

import dataclasses
import json

import pytest
import torch

from rflbat.defenses.registry import DEFENSES, make_defense
from rflbat.errors import UserError
from rflbat.experiment.config import Experiment
from rflbat.randomness import draw_source
from rflbat.report.build import report_run
from rflbat.report.shadow_report import draw_shadows, shadow_table
from rflbat.round.round import run_round
from rflbat.round.setup import build, initial_state
from rflbat.simulation.loop import Interrupted, resume, run
from rflbat.storage.run_folder import RunFolder

NAMES = "rflbat,foolsgold,krum,median"


def small(**changes):
    settings = {"dataset": "digits", "clients": 12, "rounds": 4, "malicious": 0.25, "defense": "fedavg"}
    return Experiment(**{**settings, **changes})


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_run_is_bit_for_bit_that_without_shadows(tmp_path):
    plain = run(small(), tmp_path / "plain")
    watched = run(small(shadow=NAMES), tmp_path / "watched")
    assert torch.equal(plain.params, watched.params)
    for name in ("rounds.jsonl", "clients.jsonl"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "watched" / name).read_bytes()
    assert not (tmp_path / "plain" / "shadows.jsonl").exists()


LEARNING = [name for name in DEFENSES if make_defense(name, {}).pretrain is not None]
ROOTED = [name for name in DEFENSES if "root_update" in make_defense(name, {}).needs]
SHADOWS = [name for name in DEFENSES if name not in ("bulyan", "deepsight", *LEARNING, *ROOTED)]


@pytest.mark.parametrize("name", [*SHADOWS, "deepsight(samples=20)"])
def test_a_shadow_decides_as_the_defense_does_in_a_run_of_its_own(name):
    """In the first round both see the same updates, and draw the same numbers."""
    federation = build(small(shadow=name))
    _, watched = run_round(federation, initial_state(federation))
    own = build(small(defense=name.partition("(")[0]))
    _, outcome = run_round(own, initial_state(own))
    (shadow,) = watched.shadows
    assert shadow.name == name
    assert torch.equal(shadow.decision.kept, outcome.decision.kept)
    assert torch.equal(shadow.decision.weights, outcome.decision.weights)
    assert torch.equal(shadow.decision.update, outcome.decision.update)
    assert torch.equal(shadow.measures, outcome.measures)


def test_a_shadow_remembers_the_rounds_of_this_run():
    """FoolsGold's history grows by the updates that it saw, not by those of a run of its own."""
    federation = build(small(shadow="foolsgold"))
    seen, inner = [], federation.defense.apply
    spied = dataclasses.replace(
        federation.defense, apply=lambda updates, *rest: seen.append(updates) or inner(updates, *rest)
    )
    federation = dataclasses.replace(federation, defense=spied)
    server = initial_state(federation)
    foolsgold = make_defense("foolsgold", {})
    state = foolsgold.init(12, federation.model.layout.size, federation.device)
    for number in range(3):
        server, outcome = run_round(federation, server)
        expected = foolsgold.apply(seen[-1], state, draw_source(0, "defense", number, "cpu"))
        state = expected.state
        assert torch.equal(outcome.shadows[0].decision.weights, expected.weights)
    assert torch.equal(server.shadow_states[0].history_CD, state.history_CD)


def test_what_is_recorded(tmp_path):
    run(small(shadow=NAMES, eval_every=3), tmp_path / "run")
    records = lines(tmp_path / "run" / "shadows.jsonl")
    assert [record["defense"] for record in records] == NAMES.split(",") * 4
    assert [record["round"] for record in records] == [number for number in range(4) for _ in range(4)]
    assert [record["accuracy"] is None for record in records] == [True] * 8 + [False] * 8
    clients = lines(tmp_path / "run" / "clients.jsonl")
    for record in records:
        malicious = {row["client"] for row in clients if row["round"] == record["round"] and row["malicious"]}
        kept = set(record["kept"])
        assert kept <= set(range(12))
        assert record["recall"] == len(malicious - kept) / len(malicious)
        assert record["false_positive_rate"] == len(set(range(12)) - malicious - kept) / (12 - len(malicious))
    assert all(len(record["kept"]) == 1 for record in records if record["defense"] == "krum")


def test_a_resumed_run_has_the_shadows_of_a_straight_one(tmp_path):
    class Stop:
        def on_start(self, described):
            pass

        def on_round(self, record):
            if record["round"] == 1:
                raise KeyboardInterrupt

        def on_end(self, summary):
            pass

    run(small(shadow=NAMES), tmp_path / "straight")
    with pytest.raises(Interrupted):
        run(small(shadow=NAMES), tmp_path / "stopped", [Stop()])
    resume(tmp_path / "stopped")
    straight, stopped = (tmp_path / name / "shadows.jsonl" for name in ("straight", "stopped"))
    assert straight.read_bytes() == stopped.read_bytes()


def test_the_report_shows_them(tmp_path):
    run(small(shadow="rflbat,krum", attack_start=1), tmp_path / "run")
    names = {path.name for path in report_run(tmp_path / "run")}
    assert {"shadows.png", "shadows.md", "shadows.csv", "shadows.tex"} <= names
    text = (tmp_path / "run" / "shadows.md").read_text()
    assert [line.split(" | ")[0] for line in text.splitlines()[4:]] == ["| fedavg (this run)", "| rflbat", "| krum"]


def test_the_table_counts_attacked_rounds_alone():
    rounds = [
        {"round": 0, "malicious": 0, "recall": None, "attack_success_rate": 0.9},
        {"round": 1, "malicious": 3, "recall": 0.5, "attack_success_rate": 0.25},
    ]
    shadows = [
        {"round": 0, "defense": "krum", "recall": 1.0, "attack_success_rate": 0.7},
        {"round": 1, "defense": "krum", "recall": 0.0, "attack_success_rate": 0.125},
    ]
    table = shadow_table("fedavg", rounds, shadows)
    assert [(row[0], row[1], row[4]) for row in table.rows] == [
        ("fedavg (this run)", "50.0 %", "25.0 %"),
        ("krum", "0.0 %", "12.5 %"),
    ]
    upper, lower = draw_shadows("fedavg", rounds, shadows).axes
    assert [line.get_label() for line in lower.lines] == ["fedavg (this run)", "krum"]
    assert not upper.lines


def test_unknown_names_are_told_before_any_work():
    with pytest.raises(UserError, match=r"unknown defense 'rflbta'; did you mean 'rflbat'\?"):
        small(shadow="krum,rflbta")


@pytest.mark.parametrize("name", LEARNING)
def test_a_defense_that_takes_samples_from_the_clients_is_no_shadow(name):
    with pytest.raises(UserError, match=f"^shadow='{name}' learns from root data.*: defense='{name}'$"):
        small(shadow=f"krum,{name}")
    assert small(defense=name).shadows == ()


def test_names_may_repeat_and_have_spaces():
    assert [each.label for each in small(shadow=" krum, rflbat ,krum ()").shadows] == ["krum", "rflbat"]
    assert small().shadows == ()


def test_a_shadow_takes_parameters_and_a_defense_may_stand_twice(tmp_path):
    run(small(shadow="krum(f=2),krum(f=true), krum", defense="krum", defense_args={"f": 2}), tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    by_name = {name: [] for name in ("krum(f=2)", "krum(f=true)", "krum")}
    for record in folder.shadows():
        by_name[record["defense"]].append(record["kept"])
    own = {}
    for record in folder.clients():
        own.setdefault(record["round"], []).extend([record["client"]] * record["kept"])
    assert by_name["krum(f=2)"] == list(own.values())
    assert all(len(kept) == len(own) for kept in by_name.values())


@pytest.mark.parametrize(
    ("shadow", "said"),
    [
        ("krum(f)", r"shadow='krum\(f\)' is not of the form NAME or NAME\(parameter=value,...\)"),
        ("krum(f=1", r"shadow='krum\(f=1' is not of the form"),
        ("krum(f=1)x", "is not of the form"),
        ("krum(g=1)", r"defense 'krum' has no parameter 'g'; did you mean|it takes"),
        ("krum(f=some)", "f='some'"),
        ("krum(f=1,f=2)", "names a parameter twice"),
        ("med ian", "unknown defense 'med ian'"),
    ],
)
def test_a_shadow_that_cannot_be_made_is_refused(shadow, said):
    with pytest.raises(UserError, match=said):
        small(shadow=shadow)


def test_a_round_that_is_too_small_for_a_shadow_is_refused():
    with pytest.raises(UserError, match="krum f=40 needs at least 43 clients per round"):
        build(small(shadow="krum(f=40)"))


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "bulyan"])
def test_a_defense_that_weighs_nobody_gives_the_malicious_no_weight(name, tmp_path):
    """Their update is no weighted mean of rows: a share of weights would say what is not so."""
    changes = {"defense_args": {"f": 1}} if name == "bulyan" else {}
    result = run(small(defense=name, shadow=f"krum,{name}", **changes), tmp_path / "run")
    assert result.summary["malicious_weight"] is None
    assert all(record["malicious_weight"] is None for record in result.rounds)
    told = {"krum": [], name: []}
    for record in RunFolder.open(tmp_path / "run").shadows():
        told[record["defense"]].append(record["malicious_weight"])
    assert set(told[name]) == {None}
    assert None not in told["krum"]
    assert (report_run(tmp_path / "run")[0]).exists()
    table = shadow_table(name, result.rounds, RunFolder.open(tmp_path / "run").shadows())
    assert table is not None
    assert not {row[0]: row for row in table.rows}[name][3].endswith("%")
