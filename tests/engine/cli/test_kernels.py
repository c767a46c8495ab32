"""Which implementations run: those that --kernels names, in every round and after a resume; run.json says so."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rflbat.aggregation import aggregate
from rflbat.experiment.config import Experiment
from rflbat.round.root_data import ROUNDS
from rflbat.simulation import loop
from rflbat.simulation.loop import run
from rflbat.sweep.cells import make_cells
from rflbat_kernels import using
from rflbat_kernels.dispatch import IMPLEMENTATIONS
from tests.engine.cli.conftest import Call, Mistake

SMALL = "--clients 7 --rounds 3 --local-steps 1 --batch-size 9 --defense rflbat --device cpu --quiet"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Register an implementation "counted" of some operations: the CPU default, which records its calls."""
    calls: list[str] = []

    def wrap(op: str) -> Callable[..., Any]:
        def function(*args: Any, **kwargs: Any) -> Any:
            calls.append(op)
            row = IMPLEMENTATIONS[op]
            return row.get("cpu", row["torch"])(*args, **kwargs)

        return function

    for op in ("kmeans", "gram", "weighted_sum"):
        monkeypatch.setitem(IMPLEMENTATIONS[op], "counted", wrap(op))
    return calls


def described(folder: str) -> dict[str, Any]:
    return dict(json.loads((Path(folder) / "run.json").read_text()))


def test_the_named_ones_run_and_are_recorded(call: Call, counted: list[str]) -> None:
    named = "--kernels kmeans=counted --kernels gram=counted --kernels pca=squaring"
    assert call(f"run {SMALL} --out named {named}") == (0, "", "")
    assert sorted(counted) == ["gram"] * 3 + ["kmeans"] * 3
    assert call(f"run {SMALL} --out plain") == (0, "", "")
    assert len(counted) == 6
    told, plain = described("named"), described("plain")
    assert told["config"]["kernels"] == {"kmeans": "counted", "gram": "counted", "pca": "squaring"}
    assert plain["config"]["kernels"] == {}
    assert set(told["kernels"]) == set(plain["kernels"]) == set(IMPLEMENTATIONS)
    differing = {
        op: (name, plain["kernels"][op]) for op, name in told["kernels"].items() if name != plain["kernels"][op]
    }
    assert differing == {
        "kmeans": ("counted", "torch"),
        "gram": ("counted", "cpu"),
        "pca": ("squaring", "eigh"),
    }


def test_the_name_of_version_0_1_means_the_default(call: Call) -> None:
    former = " ".join(f"--kernels {op}=reference" for op in IMPLEMENTATIONS if op not in ("pca", "hdbscan"))
    assert call(f"run {SMALL} --out former {former}") == (0, "", "")
    assert call(f"run {SMALL} --out plain") == (0, "", "")
    assert set(described("former")["config"]["kernels"].values()) == {"reference"}
    assert described("former")["kernels"] == described("plain")["kernels"]
    assert described("former")["kernels"]["gram"] == "cpu"
    assert described("former")["kernels"]["kmeans"] == "torch"
    assert Path("former/rounds.jsonl").read_bytes() == Path("plain/rounds.jsonl").read_bytes()


def test_torch_may_be_asked_for_on_a_cpu(call: Call) -> None:
    assert call(f"run {SMALL} --out blocks --kernels gram=torch --kernels weighted_sum=torch") == (0, "", "")
    assert described("blocks")["kernels"]["gram"] == "torch"
    assert json.loads(Path("blocks/summary.json").read_text())["rounds"] == 3


def test_the_same_numbers_give_the_same_run(call: Call, counted: list[str]) -> None:
    assert call(f"run {SMALL} --out named --kernels kmeans=counted --kernels gram=counted") == (0, "", "")
    assert call(f"run {SMALL} --out plain --kernels kmeans=auto") == (0, "", "")
    assert Path("named/rounds.jsonl").read_bytes() == Path("plain/rounds.jsonl").read_bytes()


def test_a_resumed_run_uses_them_too(call: Call, counted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop.run_round

    def stopping(federation: Any, server: Any) -> Any:
        if server.round_number == 1:
            raise KeyboardInterrupt
        return real(federation, server)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run_round", stopping)
        assert call(f"run {SMALL} --out stopped --kernels kmeans=counted")[0] == 130
    assert counted == ["kmeans"]
    assert call("resume stopped --quiet") == (0, "", "")
    assert counted == ["kmeans"] * 3


def test_a_run_from_before_there_were_kernels_goes_on(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    to_dict = Experiment.to_dict
    real = loop.run_round

    def stopping(federation: Any, server: Any) -> Any:
        if server.round_number == 2:
            raise KeyboardInterrupt
        return real(federation, server)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run_round", stopping)
        patch.setattr(
            Experiment, "to_dict", lambda self: {key: value for key, value in to_dict(self).items() if key != "kernels"}
        )
        assert call(f"run {SMALL} --out old")[0] == 130
    assert "kernels" not in described("old")["config"]
    assert call("resume old --quiet") == (0, "", "")
    assert json.loads(Path("old/summary.json").read_text())["rounds"] == 3


def test_flags_add_to_those_of_a_file(call: Call, counted: list[str], tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[kernels]\nkmeans = 'counted'\npca = 'squaring'\n")
    assert call(f"run {SMALL} --out told --config own.toml --kernels pca=auto") == (0, "", "")
    assert described("told")["config"]["kernels"] == {"kmeans": "counted", "pca": "auto"}
    assert described("told")["kernels"]["pca"] == "eigh"


def test_a_defense_that_learns_first_uses_them_while_it_learns(counted: list[str]) -> None:
    settings = {"clients": 5, "rounds": 1, "local_steps": 1, "batch_size": 5, "defense": "autoencoder"}
    run(Experiment(**settings, device="cpu", kernels={"weighted_sum": "counted"}))
    assert len(counted) > ROUNDS


def test_every_cell_of_a_sweep_has_them(counted: list[str]) -> None:
    base = Experiment(kernels={"kmeans": "counted"})
    cells = make_cells(base, {"defense": ["rflbat", "fedavg"]}, 2)
    assert [cell.experiment.kernels for cell in cells] == [{"kmeans": "counted"}] * 4


def test_a_block_chooses_for_aggregate(counted: list[str]) -> None:
    updates = torch.randn(9, 30, generator=torch.Generator().manual_seed(0))
    with using({"kmeans": "counted"}):
        chosen = aggregate(updates, "rflbat", clusters=2)
    assert counted == ["kmeans"]
    assert torch.equal(chosen.update, aggregate(updates, "rflbat", clusters=2).update)
    assert counted == ["kmeans"]


def test_a_missing_package_is_a_mistake_before_any_work(mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "cupy", None)
    said = mistake("run --kernels kmeans=cuml")
    assert "kernels: kmeans=cuml needs cupy, which cannot be imported here" in said
    assert "pip install 'rflbat[gpu]'" in said
