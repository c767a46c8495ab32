"""Runs whose clients send whatever they like: under every defense the model stays finite and each of them is counted.

Axes: N clients of the round, D parameters.
"""

import json

import numpy as np
import pytest
import torch

from rflbat.defenses.registry import DEFENSES
from rflbat.round.records import client_records, round_record
from rflbat.round.setup import build, initial_state
from rflbat.storage.atomic import to_json
from tests.engine.defenses.hostile import ROWS
from tests.engine.rounds import patched, play, small

ROUNDS = 4
HOSTILE = 8


@pytest.mark.parametrize("defense", DEFENSES)
def test_hostile_clients_of_a_run(defense):
    """Eight of thirteen clients send another kind of row each, other ones in each round, from a hostile past on."""
    federation = build(small(defense=defense, malicious=0.0, rounds=ROUNDS))
    kinds = list(ROWS)
    rng = np.random.default_rng(0)
    sent = []

    def send(params_ND):
        mine = [kinds[(len(sent) * HOSTILE + client) % len(kinds)] for client in range(HOSTILE)]
        rows = np.stack([ROWS[kind](rng, params_ND.shape[1]) for kind in mine])
        params_ND[:HOSTILE] = torch.from_numpy(rows).float()
        # The last row may be the server's own.
        sent.append((~params_ND[:13].isfinite().all(1)).tolist())

    hostile = patched(federation, send)
    server = initial_state(federation)
    for number in range(ROUNDS):
        server, (outcome,) = play(hostile, 1, server)
        assert server.params_D.isfinite().all()
        line = json.loads(to_json(round_record(hostile, outcome)))
        assert line["nonfinite"] == line["stages"]["nonfinite"] >= sum(sent[number])
        clients = [json.loads(to_json(record)) for record in client_records(hostile, outcome)]
        for told, wrong in zip(clients, sent[number], strict=True):
            if wrong:
                assert (told["stage"], told["kept"], told["weight"]) == ("nonfinite", False, 0.0)
        if not line["nobody_kept"]:
            assert sum(told["weight"] for told in clients) == pytest.approx(1, abs=1e-12)
    assert len(sent) == ROUNDS
    assert any(any(wrong) for wrong in sent)
