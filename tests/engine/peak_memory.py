"""Run one round of a model and write the memory that the memory model predicts and the measured memory.

`python -m tests.engine.peak_memory MODEL BACKEND TESTED`, in a process of its own, whose peak the kernel counts.
Linux only. The data set is loaded before; freed large blocks return to the system, by
`MALLOC_MMAP_THRESHOLD_`. Axes: D parameters.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from rflbat.attacks.base import SampleFormat
from rflbat.attacks.registry import make_attack
from rflbat.clients.backend import choose_backend
from rflbat.defenses.registry import make_defense
from rflbat.experiment.config import Experiment
from rflbat.models.registry import MODELS
from rflbat.round.memory import round_memory
from rflbat.round.round import run_round
from rflbat.round.setup import empty_state
from rflbat.round.state import Federation
from rflbat.testing.formats import encode

FORMATS = {
    "logistic": SampleFormat((3, 64, 64), 1.0),
    "cnn": SampleFormat((1, 28, 28), 1.0),
    "lstm": SampleFormat((60,), 0.0, encode),
}
WORDS = {"logistic": 0, "cnn": 0, "lstm": 4000}
ATTACKS = {"logistic": "pixel", "cnn": "pixel", "lstm": "sentence"}
CLASSES = 10
DEVICE = torch.device("cpu")


def world_of(name: str, backend: str, clients: int, tested: int) -> Federation:
    """Random samples: 40 per client, and a number of test samples."""
    shape, words = FORMATS[name].shape, WORDS[name]
    model = MODELS[name](shape, CLASSES, words)
    stream, samples = np.random.default_rng(0), 40 * clients
    drawn = stream.integers(0, words, (samples, *shape)) if words else stream.random((samples, *shape), np.float32)
    labels_n = torch.from_numpy(stream.integers(0, CLASSES, samples))
    experiment = Experiment(clients=clients, rounds=1, local_steps=2, batch_size=20, target=1, momentum=0.9)
    return Federation(
        experiment=experiment,
        train_x=torch.from_numpy(drawn),
        train_y=labels_n,
        test_x=torch.from_numpy(drawn[:tested]),
        test_y=labels_n[:tested],
        client_indices=np.array_split(np.arange(samples), clients),
        model=model,
        attack=make_attack(ATTACKS[name], FORMATS[name], 1.0, {}),
        defense=make_defense("rflbat", {}),
        backend=choose_backend(backend, None, model, torch.from_numpy(drawn[0]).to("meta"), 20, clients, DEVICE),
        device=DEVICE,
    )


def status(key: str) -> int:
    """Bytes of a line of the process's status."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def measured(federation: Federation) -> int:
    """Most bytes that the process held during a round, above what it held before."""
    server = empty_state(federation)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # sets the peak back to what is held now
    before = status("VmRSS")
    run_round(federation, server)
    return status("VmHWM") - before


def main() -> None:
    """Write stated and measured bytes; first a small round loads what libraries load when they are first used."""
    name, backend, tested = sys.argv[1:]
    torch.set_num_threads(2)
    run_round(small := world_of(name, backend, 5, 20), empty_state(small))
    federation = world_of(name, backend, 50, int(tested))
    parts = round_memory(federation)
    sys.stdout.write(f"{parts.peak - parts.resident['data set']} {measured(federation)}\n")
    sys.stderr.write(f"{parts}\n")


if __name__ == "__main__":
    main()
