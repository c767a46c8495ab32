"""Cases of the speed benchmark in which much is shared: five defenses on one matrix, whole rounds, targets."""

import os
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmarks.speed import clients, parts, shadows
from benchmarks.speed.measure import Size, Timing, Wrong, rows_of
from benchmarks.speed.registry import cases
from benchmarks.speed.runner import measure
from benchmarks.speed.table import PARTS, page
from benchmarks.speed.targets import TARGETS, judged

from rflbat.round.setup import DATA_DIR
from tests.benchmarks.speed_here import RATES, TWICE, rows_by_contender


def test_five_defenses_are_each_checked_beside_one(in_process, tmp_path):
    [case] = in_process(shadows.shadow_case(10, 50))
    rows = rows_by_contender(case, tmp_path)
    assert rows["rflbat one"].share_of_baseline == 1.0
    assert rows["rflbat"].median is not None
    spoilt = np.load(tmp_path / "geomed.npy") + 1.0
    np.save(tmp_path / "geomed.npy", spoilt)
    rows = {row.contender: row for row in measure(case, 1, TWICE, RATES, tmp_path)}
    assert rows["rflbat"].median is None
    assert rows["rflbat"].checked.startswith("wrong")
    assert rows["rflbat one"].median is not None


@pytest.mark.skipif(not os.environ.get(DATA_DIR), reason=f"{DATA_DIR} is not set: no MNIST here")
@pytest.mark.parametrize("defense", clients.DEFENSES)
def test_a_round_on_real_data_is_checked_client_by_client(defense, in_process, tmp_path):
    [case] = in_process(clients.round_case("W1", "mnist", 30, defense))
    [row] = rows_by_contender(case, tmp_path).values()
    assert row.checked.startswith("30 updates as the plain loop's to ")
    assert "; the decision's step to " in row.checked
    np.save(tmp_path / "updates.npy", np.load(tmp_path / "updates.npy") * 1.01)
    [row] = measure(case, 1, TWICE, RATES, tmp_path)
    assert row.checked.startswith("wrong: ")


def test_few_updates_may_go_the_other_way_at_a_tie_but_not_many_nor_far():
    right_ND = np.random.default_rng(0).standard_normal((40, 7)).astype(np.float32)

    def off(rows, factor):
        return clients.nearly_all(np.where(np.arange(40)[:, None] < rows, right_ND * factor, right_ND), right_ND)

    assert off(2, 1.01) == "40 updates as the plain loop's, the median to 0.0e+00, 95% within 1e-03"
    for rows, factor in ((3, 1.01), (1, 1.06), (40, 1.002), (1, np.nan)):
        with pytest.raises(Wrong, match="the farthest off by"):
            off(rows, np.float32(factor))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.case}-{target.figure}")
def test_targets_are_judged_by_rows_that_exist(target):
    case = cases()[target.case]
    assert case.contenders[0] == "rflbat"
    assert target.figure != "share_of_best_peer" or case.peers
    size = Size(target.case, 1, 1, 1, target.bound / 2)
    for factor, answer in ((0.9, "met"), (1.1, "missed")):
        row = replace(rows_of(size, [Timing("rflbat", seconds=(1.0,), checked="yes")], "", [])[0], threads=1)
        [line] = judged(replace(target, threads=(1,)), [replace(row, **{target.figure: factor * target.bound})])
        assert line[2] == answer


def test_parts_are_measured_and_stand_on_the_page(tmp_path, monkeypatch):
    small = parts.of_defense(12, 40)
    monkeypatch.setattr(parts, "of_logistic", lambda: small)
    monkeypatch.setattr(parts, "of_many", lambda clients, parameters: [("both", lambda: None)])
    monkeypatch.setattr(parts, "of_lstm", lambda: [("nothing", lambda: None)])
    monkeypatch.setattr(parts, "of_defense", lambda clients, parameters: [(f"{clients}", lambda: time.sleep(0.05))])
    threads = torch.get_num_threads()
    try:
        parts.main(tmp_path, repeats=2)
    finally:
        torch.set_num_threads(threads)
    lines = (tmp_path / PARTS).read_text().splitlines()
    assert lines[0] == "case,part,seconds"
    assert len(lines) == 1 + 7 + 1 + 2 + 1
    assert 0.05 <= float(lines[-2].rpartition(",")[2]) < 5
    text = page(tmp_path)
    assert "`python -m benchmarks.speed.parts`" in text
    assert "| W1 | principal components |" in text


def test_the_parts_of_a_round_are_as_many_as_it_needs(monkeypatch):
    turns = []
    monkeypatch.setattr(parts, "each", lambda own, action: turns.append(len(own)))
    list(parts.of_logistic())
    list(parts.of_lstm())
    assert turns == [60_000 // (60 * parts.CHUNK)] * 4 + [20 * 2] * 3
