"""One seed, one result: bit for bit in another process, and the same draws whatever trains, in chunks of any size."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rflbat.randomness
from rflbat.clients.backend import BACKENDS
from rflbat.experiment.config import Experiment
from rflbat.simulation.loop import run
from tests.engine.durability.experiments import LINES, experiment, remembering

SCRIPT = """
import sys, torch
from rflbat.simulation.loop import run
from tests.engine.durability.experiments import experiment
torch.set_num_threads(1)
for name in sys.argv[2:]:
    run(experiment(name), f"{sys.argv[1]}/{name}")
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    """With other hashes of text, so that the order of a set shows, and from another folder."""
    names = [*remembering(), "rflbat", "krum"]
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
        env = {**os.environ, "PYTHONHASHSEED": number, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        words = [sys.executable, "-c", SCRIPT, str(tmp_path / number), *names]
        subprocess.run(words, env=env, check=True, timeout=300, cwd=tmp_path / number)
    for name in names:
        for file in LINES:
            one, other = ((tmp_path / number / name / file).read_bytes() for number in ("1", "2"))
            assert one == other, (name, file)
        one, other = ((tmp_path / number / name / "checkpoint.safetensors").read_bytes() for number in ("1", "2"))
        assert one[-30_000:] == other[-30_000:]  # the tensors; the seconds stand in the header


class Told:
    """Notes of every draw: whose stream, which method, and what came out."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.notes: list[tuple[Any, ...]] = []
        real = rflbat.randomness.generator
        for module in list(sys.modules.values()):
            if getattr(module, "generator", None) is real:
                patch.setattr(module, "generator", lambda *key: Stream(real(*key), key, self.notes))


class Stream:
    def __init__(self, stream: np.random.Generator, key: tuple[Any, ...], notes: list[tuple[Any, ...]]) -> None:
        self._stream, self._key, self._notes = stream, key, notes

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stream, name)

        def drawn(*args: Any, **kwargs: Any) -> Any:
            found = method(*args, **kwargs)
            self._notes.append((*self._key, name, hashlib.sha256(np.asarray(found).tobytes()).hexdigest()))
            return found

        return drawn


def draws(settings: Experiment) -> list[tuple[Any, ...]]:
    with pytest.MonkeyPatch.context() as patch:
        told = Told(patch)
        run(settings)
    return sorted(told.notes, key=repr)


@pytest.mark.parametrize("defense", ["rflbat", "autoencoder"])
def test_draws_know_nothing_of_back_end_and_chunk(defense: str) -> None:
    base = experiment(defense).changed({"rounds": 2})
    expected = draws(base)
    assert {"batches", "roles", "participants", "partition", "model", "defense"} <= {note[1] for note in expected}
    for backend in BACKENDS:
        for chunk in (None,) if backend == "loop" else (1, 3, None):  # which trains one client at a time
            assert draws(base.changed({"backend": backend, "chunk": chunk})) == expected, (backend, chunk)
    assert draws(base.changed({"seed": 1})) != expected
