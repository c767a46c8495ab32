"""Training the rows of a table that a client's texts touch, against training the whole table; whole runs of both.

Legend of the suffixes: N clients, D parameters, Q stored parameters.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from rflbat.clients.executor import same_start
from rflbat.clients.optimizer import Optimizer
from rflbat.clients.row_sparse import LocalTask, at_most_with_rows, on_rows, row_sparse, touched_rows
from rflbat.clients.step import make_batch_source
from rflbat.defenses.base import NoState, Updates
from rflbat.defenses.registry import DEFENSES, make_defense
from rflbat.models.base import Model
from rflbat.models.lstm import lstm
from rflbat.parameters import Layout
from rflbat.round.round import run_round
from rflbat.round.setup import build, initial_state
from rflbat.simulation.loop import run
from rflbat_kernels import RowSparse, TouchedRows
from tests.engine.brief import NEEDING
from tests.engine.clients import test_deep_training as deep
from tests.engine.clients.training import back_ends, told, train
from tests.engine.data.test_amazon import rows_of, write
from tests.engine.simulation.test_paper_runs import small
from tests.kernels.device_waits import waits_forbidden

WORDS = 97
BACKENDS = back_ends(deep.N, analytic=False)
NO_DECAY = [sgd for sgd in deep.OPTIMIZERS if not sgd.weight_decay]
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def work(dtype: torch.dtype = torch.float64) -> LocalTask:
    """The problem of the deep models' tests with more words than are touched; every client starts elsewhere."""
    given = deep.problem("lstm", dtype)
    model = lstm(deep.TEXT, deep.CLASSES, WORDS)
    start_ND = torch.stack([model.init(deep.generator(client, "model")) for client in range(deep.N)]).to(dtype)
    stamps = deep.ATTACKS["lstm"].local_triggers
    batch_source = make_batch_source(
        given.x * 4, given.labels, given.draws, stamps, torch.tensor(deep.GROUPS), deep.TARGET
    )
    return LocalTask(model, lambda rows: start_ND[rows], batch_source)


def start_of(given: LocalTask) -> torch.Tensor:
    return given.start(slice(0, deep.N))


def table_of(given: LocalTask):
    return touched_rows(given.model, given.batch_source, deep.N, deep.STEPS)


def trained(given: LocalTask, backend: str, sgd: Optimizer) -> torch.Tensor:
    start_NQ = start_of(given)
    return train(BACKENDS[backend], start_NQ, given.model, given.batch_source, sgd) - start_NQ


def test_the_problem_has_common_words_own_words_and_untouched_ones():
    table = table_of(work())
    assert 0 < len(table.common_M) < table.rows < WORDS / 2
    assert (table.own_NR == WORDS).any()
    assert {len(group.client_GC[0]) for group in table.shared} == {1, 2}


@every_backend
@pytest.mark.parametrize("sgd", NO_DECAY, ids=told)
def test_the_updates_are_those_of_the_whole_table(backend, sgd):
    whole = work()
    rows = on_rows(whole, table_of(whole))
    sent = rows.values(trained(rows, backend, sgd))
    assert isinstance(sent, RowSparse)
    wanted_ND = trained(whole, backend, sgd)
    assert (wanted_ND != 0).float().mean() < 0.95
    torch.testing.assert_close(sent.dense(), wanted_ND, rtol=0, atol=1e-13)


def test_decay_would_change_what_is_not_stored():
    """Why weight decay trains all parameters."""
    whole = work()
    rows = on_rows(whole, table_of(whole))
    decay = Optimizer(deep.STEPS, 0.1, 0.0, 0.05)
    difference_ND = rows.values(trained(rows, "loop", decay)).dense() - trained(whole, "loop", decay)
    assert difference_ND.abs().max() > 1e-3


@every_backend
def test_what_the_tokens_become_are_their_places(backend):
    whole = work()
    rows = on_rows(whole, table_of(whole))
    chunk = slice(1, 4)
    embedded = [
        [table[x] for table, x in zip(views["embedding.weight"], each.batch_source(chunk, 2)[0], strict=True)]
        for each in (whole, rows)
        for views in [each.model.layout.views(each.start(chunk))]
    ]
    assert all(map(torch.equal, *embedded))
    for wanted, got in zip(whole.batch_source(chunk, 2)[1:], rows.batch_source(chunk, 2)[1:], strict=True):
        assert torch.equal(wanted, got)


def test_a_token_that_was_not_foreseen_is_an_error():
    whole = work()
    rows = on_rows(whole, table_of(whole))

    def batch_source(rows, step):
        return torch.full((1, 4, 9), 96), *whole.batch_source(rows, step)[1:]

    assert not (rows.touched.own_NR == 96).any()
    wrong = on_rows(dataclasses.replace(whole, batch_source=batch_source), rows.touched)
    with pytest.raises((IndexError, RuntimeError), match="index out of range"):
        trained(wrong, "loop", NO_DECAY[0])


def test_the_triggers_words_are_touched():
    """The malicious clients insert 10 and 11, 6 and 7, and 5: a text holds multiples of 4 alone."""
    table = table_of(work())
    stored = set(table.common_M.tolist()) | set(table.own_NR.flatten().tolist())
    assert {5, 6, 7, 10, 11} <= stored


def test_which_rule_holds_is_said():
    model = lstm((9,), 4, 23)
    assert row_sparse(model, [], deep.ATTACKS["lstm"]) == (
        True,
        "row-sparse: a client trains only the rows of embedding.weight that its texts touch",
    )
    assert row_sparse(model, [Optimizer(1, 0.1, weight_decay=0.01)], deep.ATTACKS["lstm"]) == (
        False,
        "dense: weight_decay=0.01 changes every row of embedding.weight",
    )
    assert row_sparse(deep.MODELS["cnn"], [], deep.ATTACKS["cnn"])[0] is False
    with pytest.raises(ValueError, match="model 'cnn' has no embedding"):
        on_rows(dataclasses.replace(work(), model=deep.MODELS["cnn"]), table_of(work()))


@pytest.mark.parametrize(("tokens", "rows"), [(2, 6), (7, 21), (8, 23), (10**6, 23)])
def test_the_bound_of_the_memory_model(tokens, rows):
    assert at_most_with_rows(lstm((9,), 4, 23), tokens).layout.shapes["embedding.weight"] == (rows, 100)


def amazon(folder: Path, **changes):
    write(folder / "amazon" / "Reviews.csv.gz", rows_of((30, 31, 32, 33, 34)), packed=True)
    return small(folder, dataset="amazon", **changes)


def whole_table(federation):
    return dataclasses.replace(federation, host_texts=None)


def played(federation, rounds=2):
    server, outcomes = initial_state(federation), []
    for _ in range(rounds):
        server, outcome = run_round(federation, server)
        outcomes.append(outcome)
    return server, outcomes


OF_UPDATES = [*((name, "sentence") for name in DEFENSES if name not in NEEDING), ("rflbat", "dba")]


@pytest.mark.parametrize(("defense", "attack"), OF_UPDATES)
def test_a_run_is_that_of_the_whole_table(defense, attack, tmp_path):
    changes = {"momentum": 0.5, "malicious": 0.34, "attack": attack, "clients": 10, "batch_size": 2, "scale": 3.0}
    federation = build(amazon(tmp_path, defense=defense, **changes))
    assert federation.host_texts is not None
    server, outcomes = played(federation)
    wanted, expected = played(whole_table(federation))
    torch.testing.assert_close(server.params_D, wanted.params_D, rtol=0, atol=2e-6)
    assert not torch.equal(server.params_D, initial_state(federation).params_D)
    for got, want in zip(outcomes, expected, strict=True):
        assert torch.equal(got.decision.kept, want.decision.kept)
        torch.testing.assert_close(got.decision.weights, want.decision.weights, rtol=0, atol=1e-6)
        torch.testing.assert_close(got.measures, want.measures, rtol=0, atol=1e-6)


def test_an_attack_that_looks_at_other_rows_gets_all_columns(tmp_path):
    """Tampering on texts is then tampering on dense updates."""
    federation = build(amazon(tmp_path, defense="fedavg", malicious=0.34, attack="ipm", clients=9, batch_size=2))
    assert federation.host_texts is None
    widths = []

    def watched(own_MD, view, draw):
        widths.append(own_MD.shape[1])
        return -0.5 * view.benign.mean_D.expand_as(own_MD)

    attack = dataclasses.replace(federation.attack, tamper=watched)
    server, _ = played(dataclasses.replace(federation, attack=attack), 1)
    assert widths == [federation.model.layout.size]
    expected, _ = played(federation, 1)
    torch.testing.assert_close(server.params_D, expected.params_D, rtol=0, atol=1e-7)


WRITTEN_OUT = {"foolsgold", "median", "trimmed_mean", "bulyan", "auror", "autoencoder"}
"""The defenses that look at coordinates, or remember them; all others decide on what was sent."""
SETTINGS = [(name, {}) for name in DEFENSES if name not in NEEDING] + [
    ("foolsgold", {"memory": False}),
    ("foolsgold", {"memory": False, "normalise": False}),
    ("rflbat", {"pca": "lowrank"}),
    ("norm_clipping", {"noise": 0.1}),
]


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=lambda each: str(each))
def test_who_writes_the_updates_out(name, settings, tmp_path, monkeypatch):
    federation = build(amazon(tmp_path, defense=name, defense_args=settings, clients=9, batch_size=2))
    seen, dense = [], RowSparse.dense
    monkeypatch.setattr(RowSparse, "dense", lambda updates: seen.append(name) or dense(updates))
    run_round(federation, initial_state(federation))
    expected = (name in WRITTEN_OUT and settings.get("memory", True)) or settings.get("pca") == "lowrank"
    assert bool(seen) is bool(expected)


@pytest.mark.parametrize(("name", "passes"), [("geomed", 1), ("rfa", 1)])
def test_many_updates_are_not_written_out_for_passes(name, passes, monkeypatch):
    """150 dense updates are gone over; the pairs of row-sparse ones cost less, and give the same answer."""
    model = Model("words", Layout({"table": (40, 3)}), lambda stream: None, lambda parameters, x: x, embedding="table")
    tokens = (torch.arange(150) % 40)[:, None, None]
    table = touched_rows(model, lambda rows, step: (tokens[rows], tokens, tokens), 150, 1)
    sent = RowSparse(torch.randn(150, 3, generator=torch.Generator().manual_seed(0)), table)
    one_N = torch.ones(150, dtype=torch.float64)
    known = (one_N, torch.arange(150), one_N > 0)
    defense = make_defense(name, {"passes": passes})
    wanted = defense.apply(Updates(sent.dense(), *known), NoState(), None)
    monkeypatch.setattr(RowSparse, "dense", lambda updates: pytest.fail("written out"))
    got = defense.apply(Updates(sent, *known), NoState(), None)
    torch.testing.assert_close(got.weights, wanted.weights, rtol=0, atol=1e-12)
    torch.testing.assert_close(got.update, wanted.update, rtol=0, atol=1e-7)


@pytest.mark.parametrize("broken", [0, 3])
def test_a_client_that_diverges_is_dropped(broken, tmp_path, monkeypatch):
    federation = build(amazon(tmp_path, defense="krum", clients=9, batch_size=2))

    def spoil(federation, server, draws, updates_NQ, draw):
        updates_NQ[broken, -1] = torch.nan
        return updates_NQ

    monkeypatch.setattr("rflbat.round.round.send", spoil)
    server, (outcome,) = played(federation, 1)
    assert outcome.decision.trace["stage"][broken] == 1
    assert server.params_D.isfinite().all()


def test_the_run_says_what_was_sent(tmp_path):
    for name, decay in (("plain", 0.0), ("decay", 0.01)):
        run(amazon(tmp_path, defense="fedavg", rounds=1, weight_decay=decay), tmp_path / name)
        said = json.loads((tmp_path / name / "run.json").read_text())["updates"]
        assert said.startswith("dense: weight_decay=0.01" if decay else "row-sparse: ")


def test_nothing_waits_for_the_device():
    model = lstm((9,), 4, 23)
    with waits_forbidden():
        common_M, own_NR = (torch.zeros(*shape, dtype=torch.int64, device="cuda") for shape in ((2,), (5, 3)))
        texts = torch.zeros(2, 4, 9, dtype=torch.int64, device="cuda")
        given = LocalTask(
            model, same_start(torch.zeros(model.layout.size, device="cuda")), lambda rows, step: (texts,) * 3
        )
        rows = on_rows(given, TouchedRows(0, 23, 100, common_M, own_NR, ()))
        start_nQ, tokens = rows.start(slice(1, 3)), rows.batch_source(slice(1, 3), 0)[0]
    assert start_nQ.device.type == tokens.device.type == "cuda"
    assert start_nQ.shape == (2, rows.model.layout.size)
    assert tokens.shape == texts.shape
