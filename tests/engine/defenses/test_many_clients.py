"""Rounds in which the N x N steps dominate: the same results as with fewer clients, in bounded memory.

Axes: N clients of the round.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rflbat import aggregate
from rflbat.aggregation import Decision
from rflbat.defenses.registry import make_defense
from rflbat.round.memory import defense_bytes
from rflbat.round.setup import DATA_DIR
from rflbat_kernels import using
from rflbat_kernels.pca.torch import LARGE

CLIENTS, PARAMETERS = LARGE + 26, 120


def updates(kind: str) -> torch.Tensor:
    stream = torch.Generator().manual_seed(7)
    noise = torch.randn(CLIENTS, PARAMETERS, generator=stream)
    if kind == "attacked":
        noise[: CLIENTS // 3, :40] = 0.3 * noise[: CLIENTS // 3, :40] + 1.5
    elif kind == "groups":
        noise += 2 * torch.randn(10, PARAMETERS, generator=stream)[torch.arange(CLIENTS) % 10]
    elif kind == "outliers":
        noise[::200] *= 300
    return noise


def decided(kind: str, solver: str) -> Decision:
    with using({"pca": solver}):
        return aggregate(updates(kind), "rflbat")


@pytest.mark.parametrize("kind", ["attacked", "groups", "outliers", "noise"])
def test_many_clients_are_judged_as_by_the_exact_decomposition(kind: str) -> None:
    found, exact = decided(kind, "auto"), decided(kind, "eigh")
    assert torch.equal(found.kept, exact.kept)
    assert 0 < int(found.kept.sum()) < CLIENTS
    for name in ("stage", "cluster", "clusters"):
        assert torch.equal(found.trace[name], exact.trace[name])
    torch.testing.assert_close(found.trace["coordinates"], exact.trace["coordinates"], rtol=1e-6, atol=1e-6)
    assert not torch.equal(found.trace["coordinates"], exact.trace["coordinates"])  # another way was taken
    assert torch.equal(found.update, exact.update)


ROUND = """
import sys
from rflbat.cli.main import main
from tests.engine.peak_memory import status
code = main(sys.argv[1:]) or 0
print(code, status("VmHWM"))
"""
AGGREGATED = """
import sys, torch, rflbat
from tests.engine.peak_memory import status
clients = int(sys.argv[1])
torch.set_num_threads(1)
updates = torch.randn(clients, 500, generator=torch.Generator().manual_seed(0))
updates[: clients // 4, :50] += 1
rflbat.aggregate(updates[:50], "rflbat")
before = status("VmRSS")
kept = int(rflbat.aggregate(updates, "rflbat").kept.sum())
print(kept, status("VmHWM") - before)
"""
LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux counts the peak of a process")
REAL = pytest.mark.skipif(not os.environ.get(DATA_DIR), reason=f"{DATA_DIR} is not set: no data here")


def alone(script: str, *words: str, seconds: int) -> tuple[int, int]:
    """Run in a process of its own, whose peak counts: what it prints first, and bytes."""
    root = Path(__file__).parents[3]
    paths = os.pathsep.join(str(root / name) for name in ("engine", "kernels", "."))
    # Large blocks go back to the system when they are freed.
    env = {**os.environ, "PYTHONPATH": paths, "MALLOC_MMAP_THRESHOLD_": "131072"}
    call = [sys.executable, "-c", script, *words]
    done = subprocess.run(call, env=env, cwd=root, capture_output=True, text=True, timeout=seconds, check=True)
    first, peak = map(int, done.stdout.split()[-2:])
    return first, peak


@LINUX
def test_a_round_of_two_thousand_clients_holds_a_few_matrices_of_pairs() -> None:
    kept, peak = alone(AGGREGATED, "2000", seconds=200)
    assert 0 < kept < 2000
    assert peak < 14 * 8 * 2000**2


def test_the_stated_memory_of_many_clients_is_a_few_matrices_of_pairs() -> None:
    clients = 10_000
    assert 3 * 8 * clients**2 < defense_bytes(make_defense("rflbat", {}), clients, 7850) < 14 * 8 * clients**2


def real_round(tmp_path: Path, *words: str) -> tuple[dict[str, float], float]:
    """Play one round of the command on real data: its summary, and the peak in GiB."""
    shape = ("--partition", "dirichlet", "--alpha", "1", "--rounds", "1", "--local-steps", "2", "--quiet")
    code, peak = alone(ROUND, "run", *words, *shape, "--out", str(tmp_path / "run"), seconds=1800)
    assert code == 0
    return json.loads((tmp_path / "run" / "summary.json").read_text()), peak / 2**30


@pytest.mark.slow
@LINUX
@REAL
@pytest.mark.parametrize(("defense", "malicious"), [("rflbat", "0.5"), ("geomed", "0")])
def test_ten_thousand_clients_on_mnist(defense: str, malicious: str, tmp_path: Path) -> None:
    """Half of them malicious where the defense is made for that; against half the geometric median is theirs."""
    settings = ("--dataset", "mnist", "--clients", "10000", "--batch-size", "6", "--malicious", malicious)
    summary, gib = real_round(tmp_path, *settings, "--defense", defense)
    assert gib < 20
    assert summary["nonfinite"] == summary["rounds_without_anybody"] == 0
    assert summary["accuracy"] > 0.2
    if defense == "rflbat":
        assert summary["recall"] > 0.9
        assert summary["false_positive_rate"] < 0.2


@pytest.mark.slow
@LINUX
@REAL
def test_sixteen_hundred_clients_of_a_convolutional_network(tmp_path: Path) -> None:
    summary, gib = real_round(tmp_path, "femnist", "--clients", "1600")
    assert gib < 20
    assert summary["nonfinite"] == summary["rounds_without_anybody"] == 0
    assert 0 < summary["accuracy"] < 1
    assert summary["recall"] > 0.9
    assert summary["false_positive_rate"] < 0.2
