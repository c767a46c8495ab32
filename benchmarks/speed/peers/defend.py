"""What the two defense harnesses share: the benchmark's updates in, seconds and the aggregated update out."""

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
"""How to make the peer's aggregator, and the settings that are its own."""


def defend(peer: str, options: argparse.Namespace, choice: Choice, *, list_of_rows: bool) -> None:
    """Time one defense, save what it gives and print the report.

    Args:
        peer: a name of ``PEERS``.
        options: as ``defense_parser`` reads them.
        choice: the aggregator; it is made once, outside the time.
        list_of_rows: the peer takes a list of updates and not their matrix; the rows are views of one matrix.
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
