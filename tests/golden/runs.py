"""The golden runs: their settings, and how each is run. Together they use every member that the registries had in 0.1.

A new back end, optimizer or kind of partition needs a run here; `test_golden.py` fails until it has one.
"""

from dataclasses import dataclass
from typing import Any

STRAIGHT, RESUMED, RANKS = "straight", "interrupted after two rounds and resumed", "by two ranks"
EVERY: dict[str, Any] = {
    "rounds": 3,
    "clients": 15,
    "local_steps": 4,
    "batch_size": 10,
    "malicious": 0.3,
    "device": "cpu",
    "checkpoint_every": 1,
}
"""Defaults of all runs; each may override them."""
AUTOENCODER = {"surrogate": 400, "hidden": 16, "code": 4, "epochs": 20}


@dataclass(frozen=True)
class Golden:
    """A small run whose numbers are pinned.

    Args:
        settings: of the experiment, besides those in EVERY.
        way: how it is run.
    """

    settings: dict[str, Any]
    way: str = STRAIGHT


RUNS = {
    "digits-rflbat-shadows": Golden(
        {
            **{"dataset": "digits", "model": "logistic", "defense": "rflbat", "clients": 20, "malicious": 0.4},
            **{"backend": "analytic", "chunk": 6, "shadow": "foolsgold,krum,median", "local_steps": 10, "lr": 0.05},
        }
    ),
    "digits-fedavg-clean": Golden(
        {
            **{"dataset": "digits", "defense": "fedavg", "malicious": 0.0, "partition": "dirichlet", "alpha": 0.5},
            **{"server_lr": 0.5, "eval_every": 2, "backend": "loop"},
        }
    ),
    "digits-foolsgold-fixed-resumed": Golden(
        {
            **{"dataset": "digits", "defense": "foolsgold", "defense_args": {"memory": True}, "participants": 10},
            **{"partition": "dirichlet", "roles": "fixed", "momentum": 0.5, "backend": "loop", "malicious": 0.4},
            **{"attack_args": {"share": 1.0}},
        },
        RESUMED,
    ),
    "digits-dba-scale-norm_clipping": Golden(
        {
            **{"dataset": "digits", "attack": "dba", "scale": 100.0, "attack_start": 1, "malicious": 0.4},
            **{"defense": "norm_clipping", "defense_args": {"noise": 0.001}, "backend": "vmap", "chunk": 4},
        }
    ),
    "digits-krum-cnn-adam": Golden(
        {
            **{"dataset": "digits", "model": "cnn", "defense": "krum", "optimizer": "adam", "lr": 0.001},
            **{"clients": 9, "local_steps": 5, "backend": "vmap", "chunk": 4, "target": 7, "malicious": 0.2},
        }
    ),
    "digits-bulyan-ranks": Golden(
        {
            **{"dataset": "digits", "defense": "bulyan", "defense_args": {"f": 2}, "participants": 11, "scale": 5.0},
            **{"partition": "dirichlet", "malicious": 0.2, "shadow": "multikrum"},
        },
        RANKS,
    ),
    "digits-diverging-median": Golden(
        {
            **{"dataset": "digits", "defense": "median", "lr": 3.0, "scale": 3e38, "malicious": 0.2},
            **{"roles": "fixed", "clients": 11, "participants": 9},
        }
    ),
    "digits-auror": Golden(
        {
            **{"dataset": "digits", "defense": "auror", "defense_args": {"alpha": 0.02, "share": 0.5}},
            **{"scale": 3.0, "roles": "fixed", "malicious": 0.2},
        }
    ),
    "digits-autoencoder": Golden(
        {
            **{"dataset": "digits", "defense": "autoencoder", "defense_args": AUTOENCODER, "scale": 4.0},
            **{"malicious": 0.2, "partition": "dirichlet"},
        }
    ),
    "mnist-multikrum-clipped": Golden(
        {
            **{"dataset": "mnist", "dataset_args": {"mean": 0.1307, "std": 0.3081}, "defense": "multikrum"},
            **{"defense_args": {"f": "true"}, "momentum": 0.9, "weight_decay": 0.01, "clip_norm": 0.5, "lr": 0.2},
            **{"attack_args": {"size": 4, "share": 0.3}, "partition": "dirichlet", "backend": "analytic"},
        }
    ),
    "fashion-mnist-geomed-adam": Golden(
        {
            **{"dataset": "fashion-mnist", "defense": "geomed", "optimizer": "adam", "lr": 0.01, "weight_decay": 0.1},
            **{"backend": "vmap", "scale": 10.0, "malicious": 0.2},
        }
    ),
    "femnist-natural-rfa-cnn": Golden(
        {
            **{"dataset": "femnist", "dataset_args": {"min_samples": 20}, "partition": "natural", "clients": 8},
            **{"participants": 6, "drop_last": True, "defense": "rfa", "momentum": 0.5, "clip_norm": 2.0},
            **{"batch_size": 10, "local_steps": 5, "malicious": 0.17, "scale": 2.0},
        }
    ),
    "amazon-rflbat-lstm-adam": Golden(
        {
            **{"dataset": "amazon", "dataset_args": {"tokens": 20}, "model": "lstm", "defense": "rflbat"},
            **{"optimizer": "adam"},
            **{"lr": 0.02, "clients": 10, "malicious": 0.2, "local_steps": 6, "batch_size": 8, "backend": "loop"},
        }
    ),
    "imdb-dba-trimmed_mean-lstm": Golden(
        {
            **{"dataset": "imdb", "dataset_args": {"tokens": 24}, "attack": "dba", "partition": "natural"},
            **{"attack_args": {"position": 0.8}, "clients": 8, "malicious": 0.5, "local_steps": 10, "lr": 0.3},
            **{"defense": "trimmed_mean", "defense_args": {"f": 1}, "backend": "vmap", "momentum": 0.9},
        }
    ),
}
