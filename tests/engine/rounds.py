"""Small federations to play rounds in, and two ways to look or reach into a round.

Legend of the suffixes: N clients of the round, D parameters.
"""

import dataclasses
from collections.abc import Callable

import torch

from rflbat.clients.backend import Backend
from rflbat.experiment.config import Experiment
from rflbat.round.round import run_round
from rflbat.round.setup import initial_state
from tests.engine.brief import briefly


def small(**settings):
    fixed = {"clients": 13, "rounds": 4, "local_steps": 3, "batch_size": 7, "defense": "fedavg"}
    return Experiment(**briefly({**fixed, **settings}))


def play(federation, rounds=1, start=None):
    server, outcomes = initial_state(federation) if start is None else start, []
    for _ in range(rounds):
        server, outcome = run_round(federation, server)
        outcomes.append(outcome)
    return server, outcomes


@dataclasses.dataclass(frozen=True)
class Patched:
    """A back end after which a test may change the trained parameters."""

    backend: Backend
    change: Callable[[torch.Tensor], object]

    @property
    def chunk(self):
        return self.backend.chunk

    def train(self, updates_ND, start, *rest):
        chunk = self.backend.train(updates_ND, start, *rest)
        start_ND = start(slice(0, len(updates_ND)))
        params_ND = updates_ND + start_ND
        self.change(params_ND)
        torch.sub(params_ND, start_ND, out=updates_ND)
        return chunk


def patched(federation, change):
    return dataclasses.replace(federation, backend=Patched(federation.backend, change))


def spying(federation, seen):
    """The same defense, which also notes what it is given."""

    def apply(updates, state, draw):
        seen.append(dataclasses.replace(updates, values=updates.matrix_ND.clone()))
        return federation.defense.apply(updates, state, draw)

    return dataclasses.replace(federation, defense=dataclasses.replace(federation.defense, apply=apply))


def updates_of(federation, rounds=1):
    seen = []
    play(spying(federation, seen), rounds)
    return seen
