"""The lines of a round that was made by hand, so that every number is known.

Legend of the suffixes: N clients of the round.
"""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from rflbat.defenses.base import Decision, Defense, NoState
from rflbat.experiment.config import Experiment
from rflbat.round.records import client_records, download, round_record, summarise
from rflbat.round.setup import build
from rflbat.round.shadows import ShadowOutcome
from rflbat.round.state import RoundOutcome
from rflbat.storage.atomic import to_json

STAGES = ("kept", "nonfinite", "first", "second")
STAGE_N = [0, 2, 2, 0, 1, 0, 2]
MALICIOUS_N = [False, True, True, True, True, False, False]
# Rejected: 1, 2, 4 (malicious) and 6; that is three of four malicious clients and one of three benign ones.
WEIGHTS_N = [0.5, 0, 0, 0.125, 0, 0.375, 0]
CLIENTS_N = [2, 3, 5, 7, 11, 13, 17]


@pytest.fixture(scope="module")
def federation():
    plain = build(Experiment(clients=18, partition="dirichlet", defense="fedavg", rounds=3))
    return dataclasses.replace(plain, defense=Defense("by hand", STAGES, plain.defense.apply))


def outcome(stage_N=STAGE_N, malicious_N=MALICIOUS_N, measures=(0.75, 0.25, 0.5), discarded=False, **trace):
    stage_N = torch.tensor(stage_N)
    weights_N = torch.tensor(WEIGHTS_N, dtype=torch.float64) * (stage_N == 0)
    decision = Decision(
        update=torch.zeros(3),
        kept=stage_N == 0,
        weights=weights_N,
        scores=torch.arange(7, dtype=torch.float64),
        state=NoState(),
        trace={"stage": stage_N, **trace},
    )
    measured = None if measures is None else torch.tensor(measures, dtype=torch.float64)
    told = torch.tensor(discarded)
    return RoundOutcome(1, np.array(CLIENTS_N), np.array(malicious_N), decision, told, measured, chunk=18)


def test_the_line_of_a_round(federation):
    assert round_record(federation, outcome()) == {
        "round": 1,
        "accuracy": 0.75,
        "attack_success_rate": 0.25,
        "attack_success_rate_inclusive": 0.5,
        "kept": 3,
        "dropped": 4,
        "malicious": 4,
        "nonfinite": 1,
        "precision": 3 / 4,
        "recall": 3 / 4,
        "false_positive_rate": 1 / 3,
        "malicious_weight": 0.125,
        "stages": {"nonfinite": 1, "first": 3, "second": 0},
        "nobody_kept": False,
        "move_discarded": False,
    }


def test_a_chunk_is_told_of_where_it_was_smaller_than_planned(federation):
    planned = federation.backend.chunk
    assert planned > 1
    records = [
        round_record(federation, dataclasses.replace(outcome(), chunk=chunk)) for chunk in (planned, planned - 1)
    ]
    assert records[1] == {**records[0], "chunk": planned - 1}
    assert "chunk" not in records[0]


def test_a_round_that_was_not_evaluated(federation):
    record = round_record(federation, outcome(measures=None))
    assert [record[key] for key in ("accuracy", "attack_success_rate", "attack_success_rate_inclusive")] == [None] * 3


@pytest.mark.parametrize(
    ("stage_N", "malicious_N", "precision", "recall", "false_positive_rate"),
    [
        ([0] * 7, MALICIOUS_N, None, 0.0, 0.0),  # none rejected
        (STAGE_N, [False] * 7, 0.0, None, 4 / 7),  # none malicious
        (STAGE_N, [True] * 7, 1.0, 4 / 7, None),  # none benign
        ([2] * 7, MALICIOUS_N, 4 / 7, 1.0, 1.0),  # none kept
    ],
)
def test_rates_without_a_whole_are_undefined(federation, stage_N, malicious_N, precision, recall, false_positive_rate):
    record = round_record(federation, outcome(stage_N, malicious_N))
    assert record["precision"] == precision
    assert record["recall"] == recall
    assert record["false_positive_rate"] == false_positive_rate
    assert record["nobody_kept"] is (sum(stage_N) == 14)
    assert sum(record["stages"].values()) == record["dropped"] == 7 - record["kept"]


def test_the_lines_of_clients(federation):
    points = torch.arange(14, dtype=torch.float64).reshape(7, 2)
    cluster = torch.tensor([0, 1, 1, 0, -1, 0, 1])
    records = client_records(federation, outcome(coordinates=points, cluster=cluster))
    assert len(records) == 7
    for i, record in enumerate(records):
        assert record == {
            "round": 1,
            "client": CLIENTS_N[i],
            "malicious": MALICIOUS_N[i],
            "kept": STAGE_N[i] == 0,
            "stage": STAGES[STAGE_N[i]],
            "weight": WEIGHTS_N[i],
            "score": float(i),
            "coordinates": [2 * i, 2 * i + 1],
            "cluster": [0, 1, 1, 0, -1, 0, 1][i],
            "samples": len(federation.client_indices[CLIENTS_N[i]]),
        }
    assert len({record["samples"] for record in records}) > 1


def test_a_defense_without_a_plane_has_no_coordinates(federation):
    for record in client_records(federation, outcome()):
        assert record["coordinates"] is None
        assert record["cluster"] is None


def test_lines_are_json_even_where_a_number_is_not(federation):
    points = torch.full((7, 2), math.nan, dtype=torch.float64)
    made = outcome(coordinates=points, measures=(0.5, math.nan, math.inf))
    line = json.loads(to_json(round_record(federation, made)))
    assert (line["attack_success_rate"], line["attack_success_rate_inclusive"]) == (None, None)
    assert json.loads(to_json(client_records(federation, made)[0]))["coordinates"] == [None, None]


def test_the_summary_of_a_run(federation):
    quiet = {**round_record(federation, outcome([0] * 7, [False] * 7)), "round": 0}
    attacked = round_record(federation, outcome())
    last = round_record(federation, outcome([0] * 7, MALICIOUS_N, measures=(0.9, 0.1, 0.2)))
    assert summarise(federation, [quiet, attacked, {**last, "round": 2}], 12.5) == {
        "dataset": "digits",
        "defense": "fedavg",
        "accuracy": 0.9,
        "attack_success_rate": 0.1,
        "attack_success_rate_inclusive": 0.2,
        "rounds": 3,
        "seconds": 12.5,
        "precision": 3 / 4,  # the last round rejected no client
        "recall": (3 / 4 + 0) / 2,
        "false_positive_rate": (1 / 3 + 0) / 2,
        "malicious_weight": 0.125,
        "nonfinite": 1,
        "rounds_without_anybody": 0,
        "moves_discarded": 0,
    }


def test_the_summary_counts_rounds_without_anybody(federation):
    nobody = round_record(federation, outcome([1] * 7))
    summary = summarise(federation, [nobody, {**nobody, "round": 2}], 0.0)
    assert (summary["rounds_without_anybody"], summary["nonfinite"]) == (2, 14)


def test_a_discarded_move_is_told_and_counted(federation):
    kept, lost = (round_record(federation, outcome(discarded=told)) for told in (False, True))
    assert (kept["move_discarded"], lost["move_discarded"]) == (False, True)
    assert {**lost, "move_discarded": False} == kept
    assert summarise(federation, [kept, {**lost, "round": 2}, {**lost, "round": 3}], 0.0)["moves_discarded"] == 2


def test_detection_of_a_run_without_attack_is_undefined(federation):
    quiet = round_record(federation, outcome(STAGE_N, [False] * 7))
    summary = summarise(federation, [quiet], 0.0)
    detection = ("precision", "recall", "false_positive_rate", "malicious_weight")
    assert [summary[key] for key in detection] == [None] * 4


def test_the_download_keeps_the_runs_decision_and_those_of_shadows_apart(federation):
    own, other = outcome(cluster=torch.arange(7)), outcome([0] * 7, measures=(0.5, 0.125, 0.25))
    shadows = (ShadowOutcome("krum", other.decision, other.measures), ShadowOutcome("median", own.decision))
    down = download(dataclasses.replace(own, shadows=shadows))
    assert [shadow.name for shadow in down.shadows] == ["krum", "median"]
    expected = [(own.decision, own.measures), (other.decision, other.measures), (own.decision, None)]
    for (decision, measures), got in zip(expected, (down, *down.shadows), strict=True):
        assert got.decision.kept.tolist() == decision.kept.tolist()
        assert got.decision.weights.tolist() == decision.weights.tolist()
        assert {name: part.tolist() for name, part in got.decision.trace.items()} == {
            name: part.tolist() for name, part in decision.trace.items()
        }
        assert got.decision.update is decision.update
        assert (got.measures is None) == (measures is None)
        assert measures is None or got.measures.tolist() == measures.tolist()
