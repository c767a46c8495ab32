"""From a golden run to the numbers that are pinned, and what moved between two accounts of it."""

import json
import math
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from rflbat import Experiment, Interrupted, resume, run
from rflbat.round.setup import build, empty_state
from rflbat.simulation.callbacks import CallbackBase
from rflbat.storage.run_folder import RunFolder
from rflbat.storage.schema import LOCAL, MEASURES
from rflbat.storage.tensors import load_tensors
from tests.engine.ranks.launch import drive
from tests.golden.runs import EVERY, RANKS, RESUMED, Golden
from tests.golden.samples import WRITE

FILE = Path(__file__).with_name("golden.json")
ROUNDING = 1e-3
"""Relative tolerance of sums over float32 parameters: instruction sets differ by 1e-5, `vmap` and `loop` by 2e-4."""
ROUNDED = ("norm", "moved", "malicious_weight")
EXACT = 1e-12
"""Tolerance of rates: quotients of two counts."""

Account = dict[str, Any]


class StopAfter(CallbackBase):
    """Ctrl-C right after a round."""

    def __init__(self, last: int) -> None:
        self.last = last

    def on_round(self, record: Mapping[str, Any]) -> None:
        if record["round"] == self.last:
            raise KeyboardInterrupt


def play(golden: Golden, place: Path) -> Account:
    """Write the files that a golden run reads into an empty folder, run it there, and account for it."""
    settings = {**EVERY, **golden.settings}
    data, folder = place / "data", place / "run"
    data.mkdir()
    if settings["dataset"] in WRITE:
        WRITE[settings["dataset"]](data)
        settings["data_dir"] = str(data)
    experiment = Experiment(**settings)
    if golden.way == RANKS:
        drive(2, place, [["run", folder.name, settings]])
    elif golden.way == RESUMED:
        try:
            run(experiment, folder, [StopAfter(1)])
        except Interrupted:
            resume(folder)
    else:
        run(experiment, folder)
    return account(experiment, RunFolder.open(folder))


def account(experiment: Experiment, folder: RunFolder) -> Account:
    """Read a finished run.

    Args:
        experiment: its settings.
        folder: its folder.

    Returns:
        the measures after the last round; clients kept in each round; hashes of who took part in which role with how
        many samples, and of who was kept and at which stage the others fell; the norm of the final parameters, how
        far they moved from the start, and the weight of the malicious, a mean over attacked rounds.
    """
    summary, rounds, clients = folder.summary() or {}, folder.rounds(), folder.clients()
    end_D = load_tensors(folder.checkpoint)[0]["params_D"].double()
    start_D = empty_state(build(experiment)).params_D.double()
    found = {name: summary[name] for name in (*MEASURES, LOCAL) if name in summary}
    found["kept"] = [record["kept"] for record in rounds]
    found["draws"] = digest((c["round"], c["client"], c["malicious"], c["samples"]) for c in clients)
    found["masks"] = digest((c["round"], c["client"], c["kept"], c["stage"]) for c in clients)
    if experiment.shadows:
        looked = folder.shadows()
        found["shadow_masks"] = digest((s["round"], s["defense"], *s["kept"]) for s in looked)
        found["shadow_accuracies"] = [s["accuracy"] for s in looked if s["round"] == experiment.rounds - 1]
    found |= {"norm": float(end_D.norm()), "moved": float((end_D - start_D).norm())}
    return found | {"malicious_weight": summary["malicious_weight"]}


def digest(lines: Iterable[tuple[object, ...]]) -> str:
    """Hash lines of numbers, truth values and names."""
    text = "\n".join(" ".join(map(str, line)) for line in lines)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def moved(expected: Account, found: Account) -> list[str]:
    """Compare two accounts of a run.

    Returns:
        one line for each number that is another one, beyond what rounding explains.
    """
    names = dict.fromkeys((*expected, *found))
    return [
        f"{name}: {expected.get(name, 'absent')} before, {found.get(name, 'absent')} now"
        for name in names
        if not alike(name, expected.get(name), found.get(name))
    ]


def alike(name: str, one: Any, other: Any) -> bool:
    """Compare two values of a name: rounded numbers and rates within their tolerances, all else exactly."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(alike(name, *pair) for pair in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        tolerance = {"rel_tol": ROUNDING} if name in ROUNDED else {"rel_tol": 0.0, "abs_tol": EXACT}
        return math.isclose(one, other, **tolerance)
    return bool(one == other)


def read() -> dict[str, Account]:
    """Read the pinned numbers, name -> account; empty where nothing is pinned yet."""
    known: dict[str, Account] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    return known


def write(accounts: Mapping[str, Account]) -> None:
    """Pin numbers, one a line, so that a difference of two versions names what moved."""
    entries = []
    for name, numbers in accounts.items():
        lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in numbers.items())
        entries.append(f"  {json.dumps(name)}: {{\n{lines}\n  }}")
    FILE.write_text("{\n" + ",\n".join(entries) + "\n}\n", encoding="utf-8")


def one_thread() -> None:
    """Compute as the tests do, see `tests/conftest.py`."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
