"""Every Triton kernel is built for three generations of devices, with no device here."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed; torch's builds for Linux bring it")

from tests.kernels.closeness import normal, uniform  # noqa: E402
from tests.kernels.launches import Launch, caught, narrow_addresses  # noqa: E402
from tests.kernels.triton_cases import lstm, lstm_back  # noqa: E402

if triton.knobs.runtime.interpret:
    pytest.skip("Triton interprets in this process, and an interpreter compiles nothing", allow_module_level=True)

CAPABILITIES = (80, 90, 100)
MASK = torch.tensor([True, False, True])
CALLS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "gram, one tile": ("gram", (normal(17, 101, dtype=torch.float32),)),
    "gram, one tile, masked, float64": ("gram", (normal(3, 101), MASK)),
    "gram, one tile, one entry": ("gram", (normal(1, 1, dtype=torch.bfloat16),)),
    "gram, many tiles, masked": ("gram", (normal(67, 101, dtype=torch.float32), torch.arange(67) > 2)),
    "gram, many tiles, float16, turned": ("gram", (normal(101, 67, dtype=torch.float16).T,)),
    "column_median, float32, masked": ("column_median", (normal(3, 101, dtype=torch.float32), MASK)),
    "column_median, float64, turned": ("column_median", (normal(101, 63).T,)),
    "column_median, bfloat16, one entry": ("column_median", (normal(1, 1, dtype=torch.bfloat16),)),
    "column_median, most rows": ("column_median", (normal(2048, 3, dtype=torch.float32),)),
    "column_trimmed_mean, float32, masked": (
        "column_trimmed_mean",
        (normal(3, 101, dtype=torch.float32), torch.tensor(1), MASK),
    ),
    "column_trimmed_mean, float16": ("column_trimmed_mean", (normal(100, 64, dtype=torch.float16), torch.tensor(9))),
    "column_trimmed_mean, float64, most rows": ("column_trimmed_mean", (normal(2048, 3), torch.tensor(9))),
    "kmeans": ("kmeans", (normal(2, 100, 2), (1, 5, 2), uniform(2, 3, 4, 5))),
    "kmeans, one of each": ("kmeans", (normal(1, 1, 1, dtype=torch.float32), (1,), uniform(1, 1, 1, 1))),
    "distance_sums": ("distance_sums", (normal(3, 17, 2), normal(3, 17) > 0)),
    "distance_sums, float32, one coordinate": ("distance_sums", (normal(17, 1, dtype=torch.float32),)),
    "lstm_cell, float32": ("lstm_cell", lstm((3, 5, 48), torch.float32)),
    "lstm_cell, float64": ("lstm_cell", lstm((7, 63), torch.float64)),
    "lstm_cell, bfloat16, one row and unit": ("lstm_cell", lstm((1, 1), torch.bfloat16)),
    "lstm_cell_backward, float32": ("lstm_cell_backward", lstm_back((3, 5, 48), torch.float32)),
    "lstm_cell_backward, float16": ("lstm_cell_backward", lstm_back((7, 63), torch.float16)),
}
"""Operation and arguments: types, masks and the whole numbers 1 make other kernels."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))


def launches(name: str, patch: pytest.MonkeyPatch) -> list[Launch]:
    op, arguments = CALLS[name]
    entry = import_module("rflbat_kernels.dispatch").IMPLEMENTATIONS[op]["triton"]
    module, _, function = entry.path.partition(":")
    with caught(import_module(module), patch) as seen:
        getattr(import_module(module), function)(*arguments)
    assert seen
    return seen


@pytest.mark.parametrize("name", CALLS)
def test_it_compiles_for_three_generations_and_addresses_by_64_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for launch in launches(name, monkeypatch):
        for capability in CAPABILITIES:
            built = launch.compile(capability)
            assert built.asm["cubin"][:4] == b"\x7fELF"
            assert f".target sm_{capability}" in built.asm["ptx"]
            assert narrow_addresses(built.asm["ttir"]) == []


def test_every_operation_in_triton_is_compiled() -> None:
    rows = import_module("rflbat_kernels.dispatch").IMPLEMENTATIONS
    assert {op for op, _ in CALLS.values()} == {op for op, row in rows.items() if "triton" in row}


def test_a_narrow_address_is_seen() -> None:
    code = """
    %row = arith.muli %i, %stride : i32 loc(#loc1)
    %late = arith.extsi %row : i32 to i64 loc(#loc2)
    %bad = tt.addptr %p, %row : !tt.ptr<f32>, i32 loc(#loc3)
    %wide = arith.extsi %i : i32 to i64 loc(#loc4)
    %good = tt.addptr %p, %wide : !tt.ptr<f32>, i64 loc(#loc5)
    %many = tt.addptr %q, %offsets : tensor<4x!tt.ptr<f32>>, tensor<4xi64>
    """
    assert [line.partition(" ")[0] for line in narrow_addresses(code)] == ["%bad", "%late"]
