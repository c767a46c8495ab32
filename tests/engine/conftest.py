"""Runs that never ran: records in the schema of a run folder, of the shape that RFLBAT leaves behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rflbat.storage.run_folder import RunFolder

Record = dict[str, Any]


def simulated_clients(number: int, clients: int, malicious: float, rng: np.random.Generator) -> list[Record]:
    """One round of RFLBAT: honest updates scattered, malicious ones close together, one outlier, one broken update."""
    evil = np.zeros(clients, dtype=bool)
    evil[rng.permutation(clients)[: round(malicious * clients)]] = True
    spread = np.where(evil, 0.12, 0.55)[:, None]
    points = np.where(evil, 1.6, -0.4)[:, None] + spread * rng.standard_normal((clients, 2))
    honest = np.flatnonzero(~evil)
    points[honest[0]] = (-6.0, 4.0)
    stage = np.where(evil, "cluster", "kept").astype(object)
    stage[honest[0]] = "filter1"
    far = np.abs(points[honest] + 0.4).sum(1) > 1.8
    stage[honest[1:][far[1:]]] = "filter2"
    stage[honest[-1]] = "nonfinite"
    kept = stage == "kept"
    return [
        {
            "round": number,
            "client": client,
            "malicious": bool(evil[client]),
            "kept": bool(kept[client]),
            "stage": str(stage[client]),
            "weight": float(kept[client]) / max(1, int(kept.sum())),
            "score": None,
            "coordinates": None if stage[client] == "nonfinite" else [float(value) for value in points[client]],
            "cluster": int(evil[client]),
            "samples": 600,
        }
        for client in range(clients)
    ]


def round_record(number: int, clients: list[Record], evaluated: bool) -> Record:
    """The line of rounds.jsonl that goes with a round's clients."""
    stages = [row["stage"] for row in clients]
    kept = sum(row["kept"] for row in clients)
    return {
        "round": number,
        "accuracy": 0.9 - 0.6 * 0.8**number if evaluated else None,
        "attack_success_rate": 0.008 + 0.05 * 0.7**number if evaluated else None,
        "attack_success_rate_inclusive": 0.1 if evaluated else None,
        "kept": kept,
        "dropped": len(clients) - kept,
        "malicious": sum(row["malicious"] for row in clients),
        "nonfinite": stages.count("nonfinite"),
        "precision": 0.9,
        "recall": 1.0,
        "false_positive_rate": 0.1,
        "malicious_weight": 0.0,
        "stages": {name: stages.count(name) for name in dict.fromkeys(stages) if name != "kept"},
        "nobody_kept": kept == 0,
        "move_discarded": False,
    }


def write_run(
    path: Path, *, rounds: int = 5, clients: int = 21, malicious: float = 0.5, every: int = 2, **config: Any
) -> RunFolder:
    """A run folder without its summary."""
    rng = np.random.default_rng(config.get("seed", 0))
    sizes = [int(size) for size in 20 + rng.gamma(1.2, 400, clients)]
    settings = {"defense": "rflbat", "dataset": "mnist", "seed": 0, "rounds": rounds, "malicious": malicious, **config}
    folder = RunFolder.create(path, {"config": settings, "sizes": sizes, "clients": clients, "device": "cpu"})
    for number in range(rounds):
        rows = simulated_clients(number, clients, malicious, rng)
        folder.append_clients(rows)
        folder.append_round(round_record(number, rows, evaluated=number % every == 0 or number == rounds - 1))
        folder.append_timing({"round": number, "seconds": 0.25})
    return folder


@pytest.fixture(name="write_run")
def write_run_fixture() -> Callable[..., RunFolder]:
    return write_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return write_run(tmp_path / "run")
