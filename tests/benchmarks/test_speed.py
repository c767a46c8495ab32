"""The speed benchmark on tiny shapes: right results get ratios, planted wrong ones none, absent peers are named."""

import doctest
import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.speed import __main__ as command
from benchmarks.speed import fresh, rounds, runner, training
from benchmarks.speed.defenses import defense_case, operations
from benchmarks.speed.formulas import FORMULAS
from benchmarks.speed.machine import measure_rates
from benchmarks.speed.measure import Rates, Row, Size, Timing, Wrong, agreement, read_csv, rows_of, write_csv
from benchmarks.speed.peers import contract
from benchmarks.speed.peers.environments import PEERS
from benchmarks.speed.registry import cases, chosen
from benchmarks.speed.runner import Options
from benchmarks.speed.workloads import WORKLOADS, make_updates

from rflbat.clients.backend import Backend
from tests.benchmarks.speed_here import RATES, rows_by_contender

TINY = {
    "W1": replace(WORKLOADS["W1"], clients=4, samples=20, batch=10),
    "W2": replace(WORKLOADS["W2"], clients=3, samples=6, batch=3),
    "W3": replace(WORKLOADS["W3"], clients=3, samples=4, batch=2, words=50, shape=(12,), parameters=92_589),
}


def tiny_training(name, contenders=(training.OURS, training.PLAIN)):
    return replace(training.training_case(name, name, TINY[name], contenders, 2), blocks=2)


@pytest.mark.parametrize("name", TINY)
def test_training_of_every_back_end_equals_the_plain_loop(name, in_process, tmp_path):
    [case] = in_process(tiny_training(name, ("rflbat", "rflbat vmap", "rflbat loop", "rflbat analytic", "plain loop")))
    rows = rows_by_contender(case, tmp_path)
    if name != "W1":
        assert "analytic" in rows.pop("rflbat analytic").checked
    assert {contender: row.repeats for contender, row in rows.items()} == dict.fromkeys(rows, 2)
    assert rows["plain loop"].share_of_baseline == 1
    assert rows["plain loop"].checked.startswith("loss ")
    assert "every update as the plain loop's" in rows["rflbat"].checked
    assert rows["rflbat"].share_of_baseline == pytest.approx(
        rows["rflbat"].median / rows["plain loop"].median, rel=1e-2
    )
    assert rows["rflbat"].over_floor == pytest.approx(rows["rflbat"].median / rows["rflbat"].floor_seconds, rel=1e-2)


def test_a_back_end_that_trains_wrongly_gets_no_time(in_process, tmp_path, monkeypatch):
    right = Backend.train

    def one_client_off(self, updates_ND, *rest):
        chunk = right(self, updates_ND, *rest)
        updates_ND[1] *= 1.05
        return chunk

    [case] = in_process(tiny_training("W1"))
    monkeypatch.setattr(Backend, "train", one_client_off)
    row = rows_by_contender(case, tmp_path)["rflbat"]
    assert row.checked.startswith("wrong: every update")
    assert (row.median, row.share_of_baseline, row.over_floor, row.repeats) == (None, None, None, 0)


def test_a_round_that_averages_wrongly_gets_no_time(in_process, tmp_path, monkeypatch):
    right = training.run_round

    def farther(federation, server):
        after, outcome = right(federation, server)
        return replace(after, params_D=after.params_D * 1.05), outcome

    [case] = in_process(tiny_training("W1"))
    monkeypatch.setattr(training, "run_round", farther)
    assert rows_by_contender(case, tmp_path)["rflbat"].checked.startswith("wrong: the round's step")


@pytest.mark.parametrize("defense", FORMULAS)
def test_every_defense_equals_its_formula(defense, in_process, tmp_path):
    [case] = in_process(defense_case("W4", defense, 24, 300))
    for row in rows_by_contender(case, tmp_path).values():
        assert row.checked.startswith("the formula in float64"), row
        assert row.median > 0


@pytest.mark.parametrize("contender", ["rflbat", "numpy"])
def test_a_defense_that_is_wrong_ends_the_command_with_1(contender, in_process, tmp_path, monkeypatch, capsys):
    case = defense_case("W4", "fedavg", 10, 50)

    def expect(folder):
        case.expect(folder)
        np.save(folder / "update.npy", np.load(folder / "update.npy") * (1 + 2e-3))

    in_process(replace(case, expect=expect, contenders=(contender,), baseline=contender))
    assert command.main(["--threads", "1", "--repeats", "1", "--out", str(tmp_path)]) == 1
    [row] = read_csv(tmp_path / "W4.csv", Row)
    assert row.checked.startswith("wrong: the formula in float64: off by 2.0e-03")
    assert row.median is None
    assert "wrong" in capsys.readouterr().err


@pytest.mark.parametrize("name", TINY)
def test_a_whole_round_equals_the_plain_one(name, in_process, tmp_path):
    [case] = in_process(rounds.round_case(TINY[name], 40))
    rows = rows_by_contender(case, tmp_path)
    assert rows["rflbat"].checked.startswith("the global step as the plain round's")
    assert rows["plain loop"].checked == "the reference"


def test_a_whole_round_that_measures_wrongly_gets_no_time(in_process, tmp_path, monkeypatch):
    right = rounds.run_round

    def luckier(federation, server):
        after, outcome = right(federation, server)
        return after, replace(outcome, measures=outcome.measures + 0.05)

    [case] = in_process(rounds.round_case(TINY["W1"], 40))
    monkeypatch.setattr(rounds, "run_round", luckier)
    assert rows_by_contender(case, tmp_path)["rflbat"].checked.startswith("wrong: 1 + the measures")


def test_an_absent_peer_is_named_and_a_present_one_is_asked(in_process, tmp_path, monkeypatch):
    def ask(contender, question):
        return Timing(contender, "1.0", 1, (0.5,) * question.rounds, 7, "loss 2 to 1")

    case = replace(tiny_training("W1"), peers=("pfl", "fedjax", "flower"), ask=ask)
    in_process(case)
    monkeypatch.setattr(runner, "python_of", lambda peer: None if peer == "fedjax" else "python")
    rows = rows_by_contender(case, tmp_path, Options(threads=(1,), repeats=2, peers=["pfl", "fedjax"]))
    assert set(rows) == {"rflbat", "plain loop", "pfl", "fedjax"}
    assert (rows["fedjax"].checked, rows["fedjax"].version) == ("not installed", PEERS["fedjax"].version)
    assert (rows["pfl"].median, rows["pfl"].peak_bytes, rows["pfl"].share_of_best_peer) == (0.5, 7, 1.0)
    assert rows["rflbat"].share_of_best_peer == pytest.approx(rows["rflbat"].median / 0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("first\nlast"), "failed: last"),
        (ValueError("pfl: the loss on W1 did not fall"), "failed: pfl: the loss on W1 did not fall"),
        (Wrong("the formula: off by 1"), "wrong: the formula: off by 1"),
    ],
)
def test_a_peer_in_trouble_has_no_time(error, said, in_process, tmp_path, monkeypatch):
    def ask(contender, question):
        raise error

    [case] = in_process(replace(tiny_training("W1"), peers=("pfl",), ask=ask))
    monkeypatch.setattr(runner, "python_of", lambda peer: "python")
    row = rows_by_contender(case, tmp_path)["pfl"]
    assert (row.checked, row.median, row.repeats) == (said, None, 0)


def test_peers_are_asked_by_their_contract(monkeypatch, tmp_path):
    asked = []

    def call(kind, peer, *arguments, threads):
        asked.append((peer, *map(str, arguments), threads))
        if kind is contract.Training:
            return contract.Training(peer, "1", "W1", threads, 2, (1.0,), 5, 2.0, 1.0)
        out = arguments[arguments.index("--out") + 1]
        np.save(out, np.load(tmp_path / "lower.npy"))
        return contract.Defended(peer, "1", "median", {}, "torch", 12, 50, 2, threads, (1.0,), 5)

    monkeypatch.setattr(contract, "call", call)
    question = runner.Question(2, 3, tmp_path)
    assert training.ask(WORKLOADS["W1"], "pfl", question).checked == "loss 2 to 1"
    training.ask(WORKLOADS["W1"], "fedjax", question)
    case = defense_case("W4", "median", 12, 50, ("byzpy", "byzfl numpy"))
    case.expect(tmp_path)
    assert case.ask("byzpy", question).checked.startswith("the formula")
    with pytest.raises(Wrong, match="off by"):  # the lower of two middle values is not ByzFL's median
        case.ask("byzfl numpy", question)
    assert [each[:6] for each in asked[:2]] == [
        ("pfl", "W1", "--workers", "2", "--rounds", "3"),
        ("fedjax", "W1", "--workers", "1", "--rounds", "3"),
    ]
    assert [each[-1] for each in asked] == [1, 2, 2, 2]
    assert asked[3][:2] == ("byzfl", "median")
    assert asked[3][-4] == "numpy"


def test_results_are_kept_beside_those_of_other_cases_and_on_the_page(in_process, tmp_path):
    krum, median = (defense_case("W4", name, 10, 50) for name in ("krum", "median"))
    in_process(krum, median)
    words = ["--repeats", "1", "--out", str(tmp_path), "--threads"]
    assert command.main([*words, "1", "2"]) == 0
    rows = read_csv(tmp_path / "W4.csv", Row)
    assert [(row.case, row.threads, row.contender) for row in rows] == [
        (case.name, threads, contender)
        for case in (krum, median)
        for threads in (1, 2)
        for contender in ("rflbat", "numpy")
    ]
    assert command.main([*words, "1"]) == 0
    again = read_csv(tmp_path / "W4.csv", Row)
    assert [row for row in again if row.threads == 2] == [row for row in rows if row.threads == 2]
    assert len(again) == len(rows)
    assert [(each.group, each.threads) for each in read_csv(tmp_path / "machine.csv", Rates)] == [("W4", 1), ("W4", 2)]
    text = (tmp_path / "README.md").read_text()
    assert "`python -m benchmarks.speed W4`" in text
    assert f"**{krum.name}**" in text
    assert "W1`.\n" in text  # not measured yet


def test_a_case_without_any_result_loses_nothing_and_ends_the_command_with_1(in_process, tmp_path, capsys):
    case = defense_case("W4", "fedavg", 10, 50)
    words = ["--repeats", "1", "--out", str(tmp_path)]
    in_process(case)
    assert command.main(words) == 0
    before = read_csv(tmp_path / "W4.csv", Row)

    def expect(folder):
        raise RuntimeError("the data is not there")

    in_process(replace(case, expect=expect))
    assert command.main(words) == 1
    assert read_csv(tmp_path / "W4.csv", Row) == before
    assert "W4-fedavg-10x50, numpy: failed: the data is not there" in capsys.readouterr().err


def test_a_process_that_is_killed_is_a_timing_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(fresh.sys, "executable", tmp_path / "killed")
    (tmp_path / "killed").write_text("#!/bin/sh\nkill -9 $$\n")
    (tmp_path / "killed").chmod(0o755)
    timing = fresh.timing("W4-fedavg-100x7850", "numpy", tmp_path, 1, 1, 1.0)
    assert timing.trouble == "failed: W4-fedavg-100x7850 numpy: ended by SIGKILL"


def test_csv_gives_back_what_was_written(tmp_path):
    size = Size("W1", 2, 100, 7850, 0.0221)
    timings = [
        Timing("rflbat", "loop, 1 at a time", 2, (0.5, 0.25, 0.125), 10**9, 'as "the loop", nearly'),
        Timing("pfl", "0.6.0", trouble="not installed"),
    ]
    rows = rows_of(size, timings, "rflbat", ["pfl"])
    write_csv(tmp_path / "new" / "W1.csv", rows)
    assert read_csv(tmp_path / "new" / "W1.csv", Row) == rows
    write_csv(tmp_path / "machine.csv", [RATES])
    assert read_csv(tmp_path / "machine.csv", Rates) == [RATES]
    assert read_csv(tmp_path / "none.csv", Row) == []
    with pytest.raises(ValueError, match=r"machine.csv has the columns"):
        read_csv(tmp_path / "machine.csv", Row)
    assert rows[0].median == 0.25
    assert (rows[0].p20, rows[0].p80) == pytest.approx((0.175, 0.4))


def test_an_unchecked_result_is_nobody_s_measure():
    timings = [
        Timing("a", seconds=(1.0,), checked="yes"),
        Timing("b", seconds=(9.0,)),
        Timing("c", seconds=(2.0,), trouble="x"),
    ]
    a, b, c = rows_of(Size("W1", 1, 1, 1, 1.0), timings, "b", ["c"])
    assert (a.share_of_baseline, a.share_of_best_peer) == (None, None)
    assert (b.median, b.checked, c.checked) == (None, "not checked", "x")


def test_floors():
    assert RATES.floor(8e9, 1e9) == 2.0  # the better of both matrix rates
    assert RATES.floor(8e8, 1e9) == 0.5  # and of both memory rates
    n, d = 100, 220_000
    assert operations("krum", n, d) == n * (n + 1) * d + 2 * n * d
    case = defense_case("W4", "multikrum", n, d)
    assert case.least_bytes == 4 * (2 * n * d + d)
    assert cases()["W1"].operations == 100 * 600 * 4 * 7840
    assert cases()["W1"].least_bytes == 100 * 600 * 784 * 4 + 2 * 100 * 7850 * 4
    assert cases()["W5-logistic"].operations > cases()["W1"].operations


def test_agreement_sees_one_wrong_number_and_what_is_not_finite():
    expected = np.ones((4, 1000))
    off = expected.copy()
    off[2, 3] += 2e-3
    assert agreement(expected, expected, 1e-4, "all") == "all to 0.0e+00"
    with pytest.raises(Wrong, match=r"largest error 2\.0e-03"):
        agreement(off, expected, 1e-4, "all")
    off[2, 3] = np.nan
    with pytest.raises(Wrong, match="not finite"):
        agreement(off, expected, 1.0, "all")
    with pytest.raises(ValueError, match=r"argument 2 is longer"):
        agreement(expected[:3], expected, 1.0, "all")


def test_the_registry_has_what_was_promised():
    names = set(cases())
    assert {"W1", "W2", "W3", "W5-logistic", "W5-cnn", "W5-lstm"} <= names
    shapes = ("100x7850", "100x220000", "1600x220000", "100x5780000")
    assert {f"W4-{defense}-{shape}" for defense in FORMULAS for shape in shapes} <= names
    assert {f"W6-rflbat-{shape}" for shape in ("50x100000", "1600x100000", "100x10000", "100x6000000")} <= names
    assert [case.name for case in chosen(["W5", "W1"])] == ["W1", "W5-logistic", "W5-cnn", "W5-lstm"]
    assert "W4-multikrum-100x7850" not in [case.name for case in chosen(["W4-krum"])]
    with pytest.raises(ValueError, match="no case 'W9'"):
        chosen(["W9"])
    assert set(cases()["W1"].peers) == {"pfl", "fedjax", "fedlab", "blazefl", "flower"}
    assert cases()["W4-krum-100x7850"].peers == ("byzfl", "byzfl numpy", "byzpy")


def test_mistakes_on_the_command_line(capsys):
    for words, said in (
        (["W9"], "no case 'W9'"),
        (["--peers", "pfi"], "no peer 'pfi'"),
        (["--threads", "0"], "must be at least 1"),
    ):
        with pytest.raises(SystemExit) as ended:
            command.main(words)
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_timed_calls_once_before_and_stops_when_the_time_is_spent():
    calls = []
    assert len(fresh.timed(lambda: calls.append(1), 3, 60.0)) == 3
    assert len(calls) == 4
    assert len(fresh.timed(lambda: None, 100, 0.0)) == 1


def test_a_job_in_a_process_of_its_own(tmp_path):
    fresh.expectation("W4-fedavg-100x7850", tmp_path, 1)
    expected = make_updates(100, 7850).mean(0, dtype=np.float64)
    np.testing.assert_allclose(np.load(tmp_path / "update.npy"), expected, rtol=1e-9, atol=1e-12)


def test_the_machine_s_rates():
    threads = torch.get_num_threads()
    rates = measure_rates("W1", threads, side=64, numbers=2**16)
    assert (rates.group, rates.threads, torch.get_num_threads()) == ("W1", threads, threads)
    assert min(rates.read, rates.copy, rates.matrix_torch, rates.matrix_numpy, rates.convolution) > 1e6
    assert rates.processor
    assert rates.numpy.startswith(np.__version__)


def test_harnesses_choose_their_own_kernels(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert "OPENBLAS_CORETYPE" not in contract.environment(2)
    assert contract.environment(2)["OPENBLAS_NUM_THREADS"] == "2"


def test_a_peer_that_takes_too_long_is_ended_with_its_children():
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    with pytest.raises(RuntimeError, match=r"took more than 0\.5 s"):
        contract.finish([sys.executable, "-c", script], {}, 0.5)


HERE = Path(command.__file__).parent
MODULES = [*HERE.glob("[a-z]*.py"), HERE / "peers/contract.py", HERE / "peers/environments.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_examples_are_true(path):
    name = ".".join(path.relative_to(HERE.parents[1]).with_suffix("").parts)
    assert doctest.testmod(importlib.import_module(name)).failed == 0
