"""Cost of Gram-based defenses: one product for all of them, and no second copy of the matrix.

Axes: N clients of the round, D parameters.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rflbat.aggregation import aggregate
from rflbat.clients.allocator import SETTINGS
from rflbat.defenses import updates as updates_module
from rflbat.defenses.registry import DEFENSES, make_defense
from rflbat.defenses.server_view import ServerView
from rflbat.defenses.updates import Updates
from rflbat.randomness import draw_source
from rflbat_kernels import finite_rows

WITHOUT_GRAM = {"fedavg", "median", "trimmed_mean", "auror", "autoencoder", "norm_clipping"} | {"fltrust", "deepsight"}
ON_THE_ROUND = {name: {"memory": False} if name == "foolsgold" else {} for name in DEFENSES if name not in WITHOUT_GRAM}
"""The defenses that look at the round's Gram matrix, as they do."""
STREAMED = [*ON_THE_ROUND, "norm_clipping", "fltrust"]
"""Those, and one that makes passes over the rows: none of them holds a second matrix."""
CLEAR_REFS = Path("/proc/self/clear_refs")
COLD = """
import sys, torch
from rflbat_kernels import column_central_mean, column_median, column_trimmed_mean
from tests.engine.peak_memory import status
torch.set_num_threads(1)

statistics = {
    "median": column_median,
    "trimmed mean": lambda matrix_ND: column_trimmed_mean(matrix_ND, torch.tensor(20)),
    "central mean": lambda matrix_ND: column_central_mean(matrix_ND, torch.tensor(60)),
}
matrix_ND = torch.rand(100, 400_000)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
statistics[sys.argv[1]](matrix_ND)
print((status("VmHWM") - before) / matrix_ND.nbytes)
"""
PEAKS = """
import json, sys, torch, rflbat
from tests.engine.peak_memory import status
torch.set_num_threads(1)

peaks = {}
matrix_ND = torch.randn(100, 400_000, generator=torch.Generator().manual_seed(0))
for name in sys.argv[1:]:
    vector_D = torch.linspace(-1, 1, 400_000)
    known = {"flame": {"params": vector_D}, "fltrust": {"root": vector_D}}.get(name, {})
    rflbat.aggregate(matrix_ND[:, :30_000], name, **{key: value[:30_000] for key, value in known.items()})
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    decision = rflbat.aggregate(matrix_ND, name, **known)
    peaks[name] = (status("VmHWM") - before) / matrix_ND.nbytes
print(json.dumps(peaks))
"""
STATES = {"foolsgold": 2.0}
"""Histories of the size of the matrix that a defense hands on, and begins with."""


def seen(matrix_ND: torch.Tensor) -> Updates:
    clients, params_D = len(matrix_ND), torch.linspace(-1, 1, matrix_ND.shape[1])
    known = (torch.ones(clients).double(), torch.arange(clients), finite_rows(matrix_ND))
    return Updates(matrix_ND, *known, server=ServerView(params_D=params_D))


def test_all_look_at_one_gram_matrix(monkeypatch):
    """Five defenses or more on one round's updates: one product between them, and the answers of each alone."""
    products = []

    def counted(*args, **kwargs):
        products.append(args[0])
        return base_gram(*args, **kwargs)

    base_gram = updates_module.gram
    monkeypatch.setattr(updates_module, "gram", counted)
    matrix_ND = torch.randn(13, 301, generator=torch.Generator().manual_seed(0))
    shared, draw = seen(matrix_ND), draw_source(0, "defense", 0, "cpu")
    assert len(ON_THE_ROUND) >= 5
    for name, parameters in ON_THE_ROUND.items():
        defense = make_defense(name, parameters)
        together = defense.apply(
            shared, defense.init(13, 301, torch.device("cpu")), draw_source(0, "defense", 0, "cpu")
        )
        assert len(products) == 1, name
        assert products[0] is matrix_ND
        alone = defense.apply(seen(matrix_ND.clone()), defense.init(13, 301, torch.device("cpu")), draw)
        assert len(products) == 2, name
        del products[1]
        draw = draw_source(0, "defense", 0, "cpu")
        assert torch.equal(together.update, alone.update)
        assert torch.equal(together.kept, alone.kept)


def test_foolsgolds_history_is_compared_piece_by_piece(monkeypatch):
    matrix_ND = torch.randn(9, 301, generator=torch.Generator().manual_seed(1))
    state = aggregate(matrix_ND.flip(0), "foolsgold").state
    whole = aggregate(matrix_ND, "foolsgold", state=state)
    monkeypatch.setattr("rflbat.defenses.foolsgold.NARROWEST", 17)
    monkeypatch.setattr("rflbat.defenses.foolsgold.PIECES", 10)
    pieces = aggregate(matrix_ND, "foolsgold", state=state)
    assert torch.equal(pieces.state.history_CD, whole.state.history_CD)
    torch.testing.assert_close(pieces.scores, whole.scores, rtol=1e-11, atol=1e-11)


@pytest.fixture(scope="module")
def peaks() -> dict[str, float]:
    """The most memory that each defense asked for, as a share of the matrix's own size."""
    if not os.access(CLEAR_REFS, os.W_OK):
        pytest.skip("the peak of a process's memory cannot be set back here")
    command = [sys.executable, "-c", PEAKS, *STREAMED]
    # Freed memory goes back at once, so that the peak is of what was in use together.
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = os.environ | at_once | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=300)
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", STREAMED)
def test_no_second_copy_of_the_matrix(peaks, name):
    assert peaks[name] < STATES.get(name, 0.0) + 0.1


@pytest.mark.skipif(not os.access(CLEAR_REFS, os.W_OK), reason="the peak of a process's memory cannot be set back here")
@pytest.mark.parametrize("name", ["median", "trimmed mean", "central mean"])
def test_what_blocks_of_columns_free_serves_the_next_ones(name):
    """With the allocator as it comes: small results between large temporaries would keep it from using them again."""
    environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", COLD, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=300)
    assert float(done.stdout) < 0.4
