"""Memory that runs out in a run: the chunk shrinks, that is recorded, and nothing else changes; or nothing can be done.

Legend of the suffixes: n clients of a chunk.
"""

import json
import logging

import pytest
import torch

from rflbat.clients import backend
from rflbat.clients.memory import bytes_per_client
from rflbat.errors import UserError
from rflbat.round.memory import round_memory
from rflbat.round.round import run_round
from rflbat.round.setup import build
from rflbat.simulation.loop import resume, run
from rflbat.storage.run_folder import ROUNDS
from tests.engine.rounds import small

OUT_OF_MEMORY = {
    "device": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB\nmore lines"),
    "host": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
}
SETTINGS = {"backend": "vmap", "chunk": 11, "defense": "rflbat", "shadow": "foolsgold", "momentum": 0.5}


@pytest.fixture
def room(monkeypatch):
    """Run out of memory above a number of clients, from the second call on; count the calls."""
    inner = backend.GRADIENTS["vmap"]

    def limit(most, error):
        asked = []

        def gradient(model):
            of_chunk = inner(model)

            def limited(named, x_nB, labels_nB, weight_nB):
                asked.append(len(x_nB))
                if len(x_nB) > most and len(asked) > 1:
                    raise error
                return of_chunk(named, x_nB, labels_nB, weight_nB)

            return limited

        monkeypatch.setitem(backend.GRADIENTS, "vmap", gradient)
        return asked

    return limit


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without(record, *keys):
    return {key: value for key, value in record.items() if key not in keys}


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_a_smaller_chunk_is_logged_and_recorded_and_changes_nothing_else(kind, room, tmp_path, caplog):
    undisturbed = run(small(**SETTINGS), tmp_path / "undisturbed")
    room(4, OUT_OF_MEMORY[kind])
    with caplog.at_level(logging.WARNING):
        disturbed = run(small(**SETTINGS), tmp_path / "disturbed")

    assert [record.get("chunk") for record in undisturbed.rounds] == [None] * 4
    assert [record.get("chunk") for record in disturbed.rounds] == [2] * 4  # 11 -> 5 + 6 -> 2 + 3 + 3 + 3
    assert "out of memory with a chunk of 11 clients" in caplog.text
    assert [without(record, "chunk") for record in disturbed.rounds] == undisturbed.rounds
    assert without(disturbed.summary, "seconds") == without(undisturbed.summary, "seconds")
    assert torch.equal(disturbed.params, undisturbed.params)
    for name in ("clients.jsonl", "shadows.jsonl"):
        assert lines(tmp_path / "disturbed" / name) == lines(tmp_path / "undisturbed" / name)
    assert lines(tmp_path / "disturbed" / ROUNDS) == disturbed.rounds


def test_a_chunk_that_did_not_fit_is_not_tried_again(room):
    asked = room(4, OUT_OF_MEMORY["device"])
    run(small(**SETTINGS))
    later = 3 * 3 * 7  # rounds, steps, chunks of 2 of 13 clients
    assert asked[:3] == [11, 11, 5]
    assert asked.count(11) == 2
    assert set(asked[-later:]) == {1, 2}


def test_a_run_is_resumed_with_the_planned_chunk(room, tmp_path):
    """A chunk that did not fit may fit later, or on another machine: the folder keeps the draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rflbat.simulation.loop.run_round", interrupted_after(2))
        with pytest.raises(Exception, match="interrupted after 2 rounds"):
            run(small(**SETTINGS), tmp_path / "run")
    room(4, OUT_OF_MEMORY["device"])
    assert [record.get("chunk") for record in resume(tmp_path / "run").rounds] == [None, None, 2, 2]


def interrupted_after(rounds):
    def played(federation, server):
        if server.round_number == rounds:
            raise KeyboardInterrupt
        return run_round(federation, server)

    return played


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_one_client_that_does_not_fit_is_a_mistake_that_says_what_would(kind, room):
    room(0, OUT_OF_MEMORY[kind])
    federation = build(small(**SETTINGS))
    needed = bytes_per_client(federation.model, torch.empty(1, 28, 28, device="meta"), 7)
    with pytest.raises(UserError) as caught:
        run(small(**SETTINGS))
    said = str(caught.value)
    assert said.startswith(f"out of memory: training one client needs {needed} bytes (")
    assert "for 7850 parameters and batches of 7; try a smaller --batch-size or another --model (" in said
    assert str(OUT_OF_MEMORY[kind]).partition("\n")[0] in said
    assert "\n" not in said
    assert "--device" not in said  # it is on the CPU already


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_memory_that_runs_out_elsewhere_in_a_round_is_told_by_part(kind, monkeypatch):
    def finite_rows(updates_ND):
        raise OUT_OF_MEMORY[kind]

    peak = round_memory(build(small())).peak
    monkeypatch.setattr("rflbat.round.round.finite_rows", finite_rows)
    with pytest.raises(UserError, match=rf"^out of memory: a round needs {peak} bytes .*updates .*--participants"):
        run(small())


def test_another_failure_is_no_shortage_of_memory(monkeypatch):
    def finite_rows(updates_ND):
        raise RuntimeError("bad shapes")

    monkeypatch.setattr("rflbat.round.round.finite_rows", finite_rows)
    with pytest.raises(RuntimeError, match=r"^bad shapes$"):
        run(small())


def test_an_attack_counts_by_what_it_holds():
    plain, scaled, omniscient, tabled, stateful = (
        round_memory(build(small(defense="fedavg", malicious=0.4, **changes)))
        for changes in (
            {"scale": 1.0},
            {"scale": 2.0},
            {"scale": 1.0, "attack": "ipm"},
            {"scale": 1.0, "attack": "label_flip", "target": 3},
            {"scale": 1.0, "attack": "tests.engine.simulation.stateful_attack:moving"},
        )
    )
    assert "tampering" not in plain.phases
    malicious, rows = 5, 7850 * 4  # of 13 clients
    assert scaled.phases["tampering"] == 2 * malicious * rows
    assert omniscient.phases["tampering"] == (2 * malicious + 13) * rows
    assert plain.resident == scaled.resident == omniscient.resident
    assert tabled.resident["attack"] == 9 * 1797  # int64 and bool for each sample of the data set
    assert stateful.resident["attack"] == 2 * 8
