"""A state by column is written in blocks of rows, whatever its number of axes.

Axes: n rows, D columns.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rflbat.simulation.checkpoint import _in_rows
from rflbat.storage import tensors
from rflbat.storage.tensors import load_tensors, save_tensors


@pytest.mark.parametrize("shape", [(7,), (3, 7), (5, 2, 7), (2, 3, 2, 7)])
def test_a_state_by_column_of_any_number_of_axes(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "BLOCK_BYTES", 80)  # a few rows a block
    one_rank = SimpleNamespace(gather_rows=lambda own_nD, total: own_nD)
    federation = SimpleNamespace(ranks=one_rank, model=SimpleNamespace(layout=SimpleNamespace(size=7)))
    state = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "state.safetensors"
    save_tensors(path, {"state": _in_rows(federation, state)}, {"round": 1})  # type: ignore[arg-type]
    assert torch.equal(load_tensors(path)[0]["state"], state)
