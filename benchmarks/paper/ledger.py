"""The committed CSV files as the record of finished runs: a run that has a row is not repeated on any machine.

Each study has ``results/STUDY.csv``, one row per run, and ``results/rounds/STUDY.csv``, one row per round of each run.
A run is identified by a digest of its settings, so rows outlive their run folders.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from benchmarks.paper.measured import COLUMNS, row_of
from rflbat.experiment.config import Experiment
from rflbat.storage.run_folder import RunFolder
from rflbat.sweep.cells import Cell

NOT_RESULTS = ("data_dir", "device", "backend", "chunk", "kernels", "checkpoint_every")
"""Settings that change no result beyond rounding."""
ROUND_COLUMNS = (
    *("settings", "round", "accuracy", "attack_success_rate"),
    *("kept", "malicious", "malicious_kept", "malicious_weight"),
)


def digest(experiment: Experiment) -> str:
    """Return a digest of the settings that differ from the defaults, so that a new setting does not rename old runs.

    Args:
        experiment: configuration of the study.

    Returns:
        12 hexadecimal digits.

    Example:
        >>> digest(Experiment(seed=1)) == digest(Experiment(seed=1, device="cpu")) != digest(Experiment())
        True
    """
    defaults = Experiment().to_dict()
    own = {
        key: value for key, value in experiment.to_dict().items() if value != defaults[key] and key not in NOT_RESULTS
    }
    return blake2b(json.dumps(own, sort_keys=True, default=str).encode(), digest_size=6).hexdigest()


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a CSV file; return no rows if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the whole file, with the rows in the given order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


class Ledger:
    """The rows of one study.

    Args:
        study: its name.
        results: folder of the CSV files.
        cells: all runs of the study, in the order of the table.
    """

    def __init__(self, study: str, results: Path, cells: Sequence[Cell]) -> None:
        self.study = study
        self.paths = (results / f"{study}.csv", results / "rounds" / f"{study}.csv")
        self.order = {digest(cell.experiment): place for place, cell in enumerate(cells)}
        self.rows: dict[str, Mapping[str, Any]] = {row["settings"]: row for row in read_csv(self.paths[0])}
        self.rounds: dict[str, list[Mapping[str, Any]]] = {}
        for row in read_csv(self.paths[1]):
            self.rounds.setdefault(row["settings"], []).append(row)

    def missing(self, cells: Sequence[Cell]) -> list[Cell]:
        """List the runs without a row by seed, so that every case has one run before any has three."""
        left = [cell for cell in cells if digest(cell.experiment) not in self.rows]
        return sorted(left, key=lambda cell: cell.experiment.seed)

    def add(self, cell: Cell, summary: Mapping[str, Any], folder: Path) -> None:
        """Write the row of a finished run, and the rows of its rounds.

        Args:
            cell: the run.
            summary: its summary.json.
            folder: its run folder.
        """
        name = digest(cell.experiment)
        self.rows[name] = {"settings": name, **row_of(self.study, cell, summary, folder)}
        self.rounds[name] = list(_rounds(name, folder))
        known = sorted(self.rows, key=lambda key: self.order.get(key, len(self.order)))
        # Write the row of the run last: a run that has one is not repeated.
        write_csv(self.paths[1], ROUND_COLUMNS, [row for key in known for row in self.rounds.get(key, ())])
        write_csv(self.paths[0], COLUMNS, [self.rows[key] for key in known])


def _rounds(name: str, folder: Path) -> Iterable[dict[str, Any]]:
    """List the rounds: the model's rates if they were measured, and the number of kept malicious clients."""
    for row in RunFolder(folder).rounds():
        rates = ("accuracy", "attack_success_rate", "malicious_weight")
        yield {
            "settings": name,
            **{key: row[key] for key in ("round", "kept", "malicious")},
            **{key: "" if row[key] is None else f"{row[key]:.4f}" for key in rates},
            "malicious_kept": round(row["malicious"] * (1 - (row["recall"] or 0))),
        }
