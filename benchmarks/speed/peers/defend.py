"""Shared code of the two defense harnesses: time a defense on the benchmark's updates and save the result."""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.speed.peers.contract import Defended, peak_bytes, publish, timed_rounds
from benchmarks.speed.peers.environments import PEERS
from benchmarks.speed.workloads import make_updates

Aggregator = Callable[[Any], Any]
Choice = tuple[Callable[[], Aggregator], dict[str, float]]
"""A factory of the peer's aggregator, and the peer's own settings."""


def defend(peer: str, options: argparse.Namespace, choice: Choice, *, list_of_rows: bool) -> None:
    """Time one defense, save its result and print the report.

    Args:
        peer: a name of ``PEERS``.
        options: options of ``defense_parser``.
        choice: the aggregator; it is built once, outside of the timed part.
        list_of_rows: pass a list of updates instead of their matrix; the rows are views of one matrix.
    """
    make, settings = choice
    aggregator = make()
    matrix = make_updates(options.clients, options.parameters)
    updates: Any = torch.from_numpy(matrix) if options.arrays == "torch" else matrix
    if list_of_rows:
        updates = list(updates)
    result = None

    def play() -> None:
        nonlocal result
        result = aggregator(updates)

    seconds = timed_rounds(play, options.rounds)
    peak, row = peak_bytes(), PEERS[peer]
    np.save(options.out, np.asarray(result, np.float32))
    publish(
        Defended(
            *(row.title, row.version, options.defense, settings, options.arrays, options.clients, options.parameters),
            *(options.f, options.threads, seconds, peak),
        )
    )
