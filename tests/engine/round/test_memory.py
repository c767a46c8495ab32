"""The stated memory of a round against the measured one, and what the count of live memory counts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rflbat.round.memory import Live, workspace

SETTINGS = [
    ("logistic", "analytic", 2000),
    ("cnn", "loop", 20),
    ("lstm", "loop", 20),
    *(
        pytest.param(*each, marks=pytest.mark.slow)
        for each in [
            ("logistic", "analytic", 20),
            ("logistic", "vmap", 20),
            ("cnn", "vmap", 20),
            ("cnn", "loop", 2000),
            ("lstm", "vmap", 2000),
            ("lstm", "loop", 2000),
        ]
    ),
]
"""With few samples to test on, training or the defense takes most; with many, the evaluation."""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux counts the peak of a process")
@pytest.mark.parametrize(("model", "backend", "tested"), SETTINGS)
def test_a_round_takes_what_is_stated(model, backend, tested):
    """Never much more. It may be less: a CPU works on smaller blocks, and not every activation is there twice."""
    root = Path(__file__).parents[3]
    paths = os.pathsep.join(str(root / name) for name in ("engine", "kernels", "."))
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.peak_memory", model, backend, str(tested)],
        env={**os.environ, "PYTHONPATH": paths, "MALLOC_MMAP_THRESHOLD_": "131072"},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    stated, measured = map(int, done.stdout.split())
    assert 0.4 * stated < measured < 1.15 * stated, done.stderr


def test_memory_counts_while_it_is_held():
    def three_at_a_time():
        kept = torch.empty(100, device="meta")  # 400
        for _ in range(5):
            block = torch.empty(50, dtype=torch.float64, device="meta")  # 400, twice while the next one is made
            kept[:50].copy_(block)
        return kept.view(10, 10)

    assert workspace(three_at_a_time) == 1200


def test_views_and_what_was_there_before_do_not_count():
    before = torch.zeros(1000, device="meta")
    with Live() as live:
        before.view(10, 100).T[3:].add_(1)
    assert live.peak == 0
