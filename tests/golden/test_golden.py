"""Whole runs give the numbers that `golden.json` pins; `python -m tests.golden` pins them anew, see its docstring."""

from collections.abc import Callable, Iterable

import pytest
import torch

from rflbat.clients.backend import GRADIENTS, Backend
from rflbat.clients.registry import OPTIMIZERS
from rflbat.data.registry import PARTITIONS
from rflbat.experiment.config import ROLES, Experiment
from tests.golden import account
from tests.golden.runs import EVERY, RANKS, RESUMED, RUNS, STRAIGHT

NOISE = 1e-4
"""Relative to the typical number of an update. The sum of all updates differs by 1e-5 between instruction sets."""

every_run = pytest.mark.parametrize("name", RUNS)


@every_run
def test_a_run_gives_its_golden_numbers(name, tmp_path):
    moved = account.moved(account.read()[name], account.play(RUNS[name], tmp_path))
    assert moved == [], f"{name}: if that is meant, `python -m tests.golden` pins the new numbers"


def test_what_is_pinned_are_the_runs():
    assert list(account.read()) == list(RUNS)


def experiments() -> list[Experiment]:
    return [Experiment(**{**EVERY, **golden.settings}) for golden in RUNS.values()]


COVERED: dict[str, tuple[Iterable[str], Callable[[Experiment], object]]] = {
    "back end": (GRADIENTS, lambda each: each.backend),
    "partition": (PARTITIONS, lambda each: each.partition),
    "optimizer": (OPTIMIZERS, lambda each: each.optimizer),
    "roles": (ROLES, lambda each: each.roles),
}
"""Kind -> every name of it, and which one an experiment asks for. A new data set, model, attack or defense needs no run
here: its own oracle or battery tests it."""


@pytest.mark.parametrize("kind", COVERED)
def test_every_member_is_in_a_golden_run(kind):
    names, used = COVERED[kind]
    missing = set(names) - {used(each) for each in experiments()}
    assert not missing, f"{kind} without a golden run: {', '.join(sorted(missing))}; add one to tests/golden/runs.py"


@pytest.mark.parametrize("way", [STRAIGHT, RESUMED, RANKS])
def test_every_way_to_run_is_in_a_golden_run(way):
    assert way in {golden.way for golden in RUNS.values()}


def disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add noise to every update, where it is not exactly 0: more than another CPU makes of it."""
    train, stream = Backend.train, torch.Generator().manual_seed(0)

    def noisy(self, updates_ND, *rest):
        chunk = train(self, updates_ND, *rest)
        typical_N1 = updates_ND.square().mean(1, keepdim=True).sqrt()
        noise_ND = torch.randn(updates_ND.shape, generator=stream) * NOISE * typical_N1
        updates_ND.add_(torch.where(updates_ND == 0, 0.0, noise_ND))
        return chunk

    monkeypatch.setattr(Backend, "train", noisy)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, golden in RUNS.items() if golden.way != RANKS])
def test_no_golden_run_stands_near_a_tie(name, tmp_path, monkeypatch):
    """Else another CPU, or a change of the order of a sum, would keep another client or answer a sample otherwise."""
    disturbed(monkeypatch)
    assert account.moved(account.read()[name], account.play(RUNS[name], tmp_path)) == []


def test_what_moved_is_named():
    before = {"accuracy": 0.5, "kept": [3, 2], "norm": 2.0, "masks": "ab"}
    assert account.moved(before, {**before, "norm": 2.001, "accuracy": 0.5 + 1e-14}) == []
    after = {"accuracy": 0.5 + 1e-9, "kept": [3, 3], "norm": 2.01, "draws": "cd"}
    names = [line.partition(":")[0] for line in account.moved(before, after)]
    assert names == ["accuracy", "kept", "norm", "masks", "draws"]
