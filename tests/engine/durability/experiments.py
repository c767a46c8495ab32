"""Small experiments whose defenses remember, and what two runs of one have in common."""

import inspect
import json
from pathlib import Path

import torch

from rflbat.defenses.base import state_tensors
from rflbat.defenses.registry import DEFENSES
from rflbat.experiment.config import Experiment
from rflbat.storage.lock import LOCK
from rflbat.storage.tensors import load_tensors

ROUNDS = 5
BRIEF = {"samples": 20, "epochs": 2, "surrogate": 64, "hidden": 8, "code": 4}
"""Parameters by which a defense that learns learns less, where it has them."""
LINES = ("rounds.jsonl", "clients.jsonl", "shadows.jsonl")


def remembering() -> list[str]:
    """Names of the defenses whose state holds anything."""
    states = {name: make().init(5, 63, torch.device("cpu")) for name, make in DEFENSES.items()}
    return [name for name, state in states.items() if state_tensors(state)]


def experiment(defense: str) -> Experiment:
    """A run of that defense, with two others that look on, one of which remembers."""
    known = inspect.signature(DEFENSES[defense]).parameters
    return Experiment(
        clients=9,
        participants=7,
        rounds=ROUNDS,
        local_steps=2,
        batch_size=7,
        momentum=0.5,
        partition="dirichlet",
        malicious=0.3,
        checkpoint_every=2,
        defense=defense,
        defense_args={name: value for name, value in BRIEF.items() if name in known},
        root_samples=20,
        shadow="foolsgold,median",
        device="cpu",
    )


def assert_same(path: Path, expected: Path) -> None:
    """Compare two finished runs bit by bit, times apart."""
    # One that was killed between its summary and the release of its lock is whole, and resuming only reads it.
    assert {file.name for file in path.iterdir()} - {LOCK} == {file.name for file in expected.iterdir()}
    for name in LINES:
        assert (path / name).read_bytes() == (expected / name).read_bytes(), name
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (path, expected)]
    assert {**summaries[0], "seconds": 0} == {**summaries[1], "seconds": 0}
    (tensors, meta), (others, other_meta) = (load_tensors(run / "checkpoint.safetensors") for run in (path, expected))
    assert {**meta, "seconds": 0} == {**other_meta, "seconds": 0}
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        bits = [each.contiguous().reshape(-1).view(torch.uint8) for each in (tensor, others[name])]
        assert torch.equal(*bits), name
    rounds = [json.loads(line)["round"] for line in (path / "timings.jsonl").read_text().splitlines()]
    assert rounds == list(range(len(rounds)))
