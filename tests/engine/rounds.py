"""Small worlds to play rounds in, and two ways to look or reach into a round.

Legend of the suffixes: N clients of the round, D parameters.
"""

import dataclasses
from collections.abc import Callable

import torch

from rflbat.clients.backend import Backend
from rflbat.config import Experiment
from rflbat.round import run_round
from rflbat.world import first_server


def small(**settings):
    return Experiment(
        **{"clients": 13, "rounds": 4, "local_steps": 3, "batch_size": 7, "defense": "fedavg", **settings}
    )


def play(world, rounds=1, start=None):
    server, outcomes = first_server(world) if start is None else start, []
    for _ in range(rounds):
        server, outcome = run_round(world, server)
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


def patched(world, change):
    return dataclasses.replace(world, backend=Patched(world.backend, change))


def spying(world, seen):
    """The same defense, which also notes what it is given."""

    def apply(updates, state, draw):
        seen.append(dataclasses.replace(updates, sent=updates.matrix_ND.clone()))
        return world.defense.apply(updates, state, draw)

    return dataclasses.replace(world, defense=dataclasses.replace(world.defense, apply=apply))


def updates_of(world, rounds=1):
    seen = []
    play(spying(world, seen), rounds)
    return seen
