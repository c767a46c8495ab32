"""The choice of implementations and its effect, the list of public names, and the page of each operation."""

import importlib
import inspect
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import rflbat_kernels as kernels
from rflbat_kernels import choose, dispatch, gram, operations, pca, using
from rflbat_kernels.implementations import Implementation
from rflbat_kernels.pca.torch import LARGE
from tests.kernels.closeness import normal, uniform

FOLDER = Path(kernels.__path__[0])
OPERATIONS = ("gram", "kmeans", "median", "order", "pairwise", "pca")
"""Folders of what aggregation asks for."""
PUBLIC: dict[str, Callable[..., Any]] = {
    "gram": kernels.gram,
    "weighted_sum": kernels.weighted_sum,
    "distances_to_sum": kernels.distances_to_sum,
    "inner_products": kernels.inner_products,
    "finite_rows": kernels.finite_rows,
    "pairwise": kernels.squared_distances,
    "distance_sums": kernels.distance_sums,
    "median": kernels.masked_median,
    "column_median": kernels.column_median,
    "column_trimmed_mean": kernels.column_trimmed_mean,
    "column_central_mean": kernels.column_central_mean,
    "column_two_means": kernels.column_two_means,
    "kmeans": kernels.kmeans,
    "hdbscan": kernels.hdbscan,
    "lstm_cell": operations.lstm_cell,
    "lstm_cell_backward": operations.lstm_cell_backward,
    "pca": kernels.pca,
    "pca_lowrank": kernels.pca_lowrank,
}
"""What callers of each operation import."""


@pytest.fixture(autouse=True)
def nothing_logged_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_logged", set())


Calls = list[torch.Tensor]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Give every operation an implementation "spy", which notes what it gets and computes nothing."""
    seen: Calls = []

    def spy(tensor: torch.Tensor, *rest: object, **further: object) -> str:
        seen.append(tensor)
        return "spied"

    for row in dispatch.IMPLEMENTATIONS.values():
        monkeypatch.setitem(row, "spy", spy)
    return seen


def test_the_table() -> None:
    assert {op: list(row) for op, row in dispatch.IMPLEMENTATIONS.items()} == {
        "gram": ["cpu", "torch", "triton"],
        "weighted_sum": ["cpu", "torch"],
        "distances_to_sum": ["cpu", "torch"],
        "inner_products": ["torch"],
        "finite_rows": ["cpu", "torch"],
        "pairwise": ["torch"],
        "distance_sums": ["torch", "triton"],
        "median": ["torch"],
        "column_median": ["cpu", "torch", "triton"],
        "column_trimmed_mean": ["cpu", "torch", "triton"],
        "column_central_mean": ["cpu", "torch"],
        "column_two_means": ["cpu", "torch"],
        "kmeans": ["torch", "cuml", "triton"],
        "hdbscan": ["sklearn"],
        "lstm_cell": ["torch", "triton"],
        "lstm_cell_backward": ["torch", "triton"],
        "pca": ["eigh", "squaring", "krylov"],
        "pca_lowrank": ["torch"],
    }


def test_every_implementation_runs() -> None:
    matrix = normal(7, 63)
    square = gram(matrix).centred_NN
    arguments = {
        "gram": (matrix,),
        "weighted_sum": (normal(7), matrix),
        "distances_to_sum": (normal(7), matrix),
        "inner_products": (matrix, matrix[0]),
        "finite_rows": (matrix,),
        "pairwise": (square,),
        "distance_sums": (matrix,),
        "median": (matrix, matrix > 0),
        "column_median": (matrix,),
        "column_trimmed_mean": (matrix, torch.tensor(1)),
        "column_central_mean": (matrix, torch.tensor(3)),
        "column_two_means": (matrix,),
        "kmeans": (matrix[None], (2,), uniform(1, 1, 3, 2)),
        "hdbscan": (kernels.distances(matrix)[None],),
        "lstm_cell": (normal(7, 12), normal(7, 3)),
        "lstm_cell_backward": (*normal(2, 7, 3), uniform(7, 12), *normal(2, 7, 3)),
        "pca": (square,),
        "pca_lowrank": (matrix,),
    }
    for op, row in dispatch.IMPLEMENTATIONS.items():
        for name, entry in row.items():
            if isinstance(entry, Implementation):
                with pytest.raises(ValueError, match=f"{op}={name} runs only on cuda, not on cpu; allowed on cpu:"):
                    choose(op, name)
                continue
            choice = choose(op, name)
            assert (choice.op, choice.name, choice.reason) == (op, name, "requested by name")
            got = choice.function(*arguments[op])
            wanted = pca(square) if op == "pca_lowrank" else PUBLIC[op](*arguments[op])
            torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("op", [op for op in PUBLIC if op not in ("pca", "hdbscan")])
@pytest.mark.parametrize("device", ["cpu", "cuda", torch.device("cuda", 1)])
def test_auto_is_the_one_for_a_cpu_or_for_any_device(op: str, device: torch.device | str) -> None:
    row = dispatch.IMPLEMENTATIONS[op]
    choice = choose(op, device=device)
    assert choice.name == ("cpu" if device == "cpu" and "cpu" in row else "torch")
    assert choice.reason == (
        "the only implementation" if len(row) == 1 else f"the default on {torch.device(device).type}"
    )
    assert inspect.unwrap(PUBLIC[op]) is inspect.unwrap(row["torch"])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_hdbscan_runs_by_scikit_learn(device: str) -> None:
    choice = choose("hdbscan", device=device)
    assert (choice.name, choice.reason) == ("sklearn", "the only implementation")


@pytest.mark.parametrize("op", [op for op, row in dispatch.IMPLEMENTATIONS.items() if "cpu" in row])
def test_the_one_for_a_cpu_runs_nowhere_else(op: str) -> None:
    allowed = ", ".join(name for name in dispatch.IMPLEMENTATIONS[op] if name != "cpu")
    with pytest.raises(ValueError, match=f"^{op}=cpu runs only on cpu, not on cuda:0; allowed on cuda:0: {allowed}$"):
        choose(op, "cpu", "cuda:0")
    with FakeTensorMode(), using({op: "cpu"}), pytest.raises(ValueError, match=f"{op}=cpu runs only on cpu"):
        PUBLIC[op](torch.ones(3, 3, device="cuda"))


@pytest.mark.parametrize("op", [op for op in PUBLIC if op not in ("pca", "hdbscan")])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_name_of_version_0_1_means_auto(op: str, device: str, calls: Calls) -> None:
    auto = choose(op, device=device)
    assert choose(op, "reference", device) == auto
    with using({op: "spy"}), using({op: "reference"}), suppress(TypeError):  # some need more arguments
        assert PUBLIC[op](torch.ones(3, 3)) != "spied"
    assert calls == []


def test_the_solvers_of_pca_never_had_that_name() -> None:
    for ask in (choose, dispatch.check):
        with pytest.raises(ValueError, match="pca has no implementation 'reference'"):
            ask("pca", "reference")


def test_auto_chooses_the_solver_of_pca_by_device() -> None:
    assert choose("pca").name == "eigh"
    on_device = choose("pca", device="cuda:0")
    assert on_device.name == "squaring"
    assert "synchronises with the device" in on_device.reason


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_chooses_the_solver_of_pca_by_rows(device: str) -> None:
    assert choose("pca", device=device, rows=LARGE).name == choose("pca", device=device).name != "krylov"
    of_many = choose("pca", device=device, rows=LARGE + 1)
    assert of_many.name == "krylov"
    assert "N^3" in of_many.reason
    assert choose("pca", "eigh", rows=LARGE + 1).name == "eigh"


@pytest.mark.parametrize(
    ("op", "implementation", "message"),
    [
        ("grim", "auto", "unknown operation 'grim'; did you mean 'gram'? Allowed: gram, weighted_sum"),
        ("xyz", "auto", "unknown operation 'xyz'. Allowed: gram, weighted_sum"),
        ("pca", "squarin", "pca has no implementation 'squarin'; did you mean 'squaring'? Allowed: auto, eigh"),
        ("kmeans", "cumll", "kmeans has no implementation 'cumll'; did you mean 'cuml'? Allowed: auto, torch"),
        ("gram", "sklearn", "gram has no implementation 'sklearn'. Allowed: auto, cpu, torch, triton"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest_and_the_allowed(
    op: str, implementation: str, message: str
) -> None:
    for ask in (choose, dispatch.check, lambda op, implementation: using({op: implementation}).__enter__()):
        with pytest.raises(ValueError) as caught:
            ask(op, implementation)
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("implementation", ["auto", "eigh"])
def test_nothing_falls_back_silently(implementation: str) -> None:
    with pytest.raises(ValueError, match="pca cannot run on mps, which has no float64"):
        choose("pca", implementation, "mps")


def test_each_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="rflbat_kernels.dispatch")
    for _ in range(3):
        choose("gram")
        choose("pca", device="cuda")
        choose("pca", "squaring", "cuda")
        choose("pca", "eigh", "cuda")
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        "gram on cpu: cpu",
        "pca on cuda: squaring",
        "pca on cuda: eigh",
    ]
    assert {record.levelname for record in caplog.records} == {"INFO"}


@pytest.mark.parametrize("op", dispatch.IMPLEMENTATIONS)
def test_a_choice_has_effect_inside_its_block_alone(op: str, calls: Calls) -> None:
    with using({op: "spy"}):
        assert PUBLIC[op](torch.ones(3, 3)) == "spied"
        assert PUBLIC["gram" if op == "pca" else "pca"](torch.ones(3, 3)) != "spied"
    with suppress(TypeError, ValueError):  # some need more arguments, or another shape
        PUBLIC[op](torch.ones(3, 3))
    assert len(calls) == 1


def test_a_keyword_is_as_good_as_a_position(calls: Calls) -> None:
    with using({"gram": "spy"}):
        assert gram(valid_N=None, **{"tensor": torch.ones(3, 3)}) == "spied"


def test_blocks_nest(calls: Calls) -> None:
    with using({"gram": "spy", "pca": "spy"}):
        with using({"gram": "auto"}):
            assert gram(torch.ones(3, 3)) != "spied"
            assert pca(torch.ones(3, 3)) == "spied"
            with using({"gram": "spy"}):
                assert gram(torch.ones(3, 3)) == "spied"
        assert gram(torch.ones(3, 3)) == "spied"
    assert gram(torch.ones(3, 3)) != "spied"


def test_an_error_ends_the_block(calls: Calls) -> None:
    with pytest.raises(ZeroDivisionError), using({"gram": "spy"}):
        raise ZeroDivisionError
    with pytest.raises(ValueError), using({"gram": "spy", "kmeans": "nothing"}):
        pytest.fail("the block was entered")
    assert gram(torch.ones(3, 3)) != "spied"


def test_other_threads_see_the_choice(calls: Calls) -> None:
    """A pool trains clients, and autograd walks back on threads of its own."""
    with using({"gram": "spy"}), ThreadPoolExecutor(1) as pool:
        assert pool.submit(gram, torch.ones(3, 3)).result() == "spied"


def test_a_choice_holds_on_fake_tensors(calls: Calls) -> None:
    with FakeTensorMode(), using({"gram": "spy"}):
        assert gram(torch.ones(3, 3, device="cuda")) == "spied"
    assert calls[0].device.type == "cuda"


def test_a_chosen_solver_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    square = gram(normal(7, 63)).centred_NN
    by_torch = importlib.import_module("rflbat_kernels.pca.torch")
    ran = []
    for name in ("_eigh", "_squaring"):
        real = getattr(by_torch, name)
        monkeypatch.setattr(by_torch, name, lambda x, name=name, real=real: ran.append(name) or real(x))
    with using({"pca": "squaring"}):
        first = pca(square)
        pca(square, solver="eigh")  # what the caller says explicitly is nearer
    second = pca(square)
    assert ran == ["_squaring"] * 2 + ["_eigh"] * 4
    torch.testing.assert_close(first, second)


def test_a_choice_is_logged_once_not_at_every_call(calls: Calls, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for _ in range(3):
        with using({"gram": "spy"}):
            gram(torch.ones(3, 3))
            gram(torch.ones(3, 3))
            pca(torch.ones(3, 3))
    assert [record.getMessage() for record in caplog.records] == ["gram on cpu: spy (requested by name)"]


def test_a_call_without_a_tensor_is_answered_by_the_operation(calls: Calls) -> None:
    with using({"gram": "spy"}), pytest.raises(TypeError, match="matrix_ND"):
        gram()


@pytest.mark.parametrize("op", dispatch.IMPLEMENTATIONS)
def test_callers_see_the_page_of_the_one_for_any_device(op: str) -> None:
    by_torch = inspect.unwrap(PUBLIC[op])
    assert PUBLIC[op].__name__ == by_torch.__name__
    assert PUBLIC[op].__doc__ == by_torch.__doc__
    assert inspect.signature(PUBLIC[op]) == inspect.signature(by_torch)


def test_implementations_of_an_operation_take_the_same_arguments() -> None:
    for row in dispatch.IMPLEMENTATIONS.values():
        taken = []
        for entry in row.values():
            with suppress(ImportError):  # where a package is missing
                function = entry.func if isinstance(entry, Implementation) else entry
                taken.append(list(inspect.signature(function).parameters))
        assert taken == [taken[0]] * len(taken)


def test_nothing_heavy_is_imported_before_it_is_chosen() -> None:
    script = "import sys, rflbat_kernels; print({'triton', 'cupy', 'cuml'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_public_name_is_listed_and_documented() -> None:
    assert kernels.__all__ == sorted(kernels.__all__)
    for name in kernels.__all__:
        assert getattr(kernels, name).__doc__
    for op in OPERATIONS:
        assert set(importlib.import_module(f"rflbat_kernels.{op}").__all__) <= set(kernels.__all__)


@pytest.mark.parametrize("op", [*OPERATIONS, "lstm_cell"])
def test_every_operation_has_its_page(op: str) -> None:
    page = (FOLDER / op / "README.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Formula",
        "## Layout",
        "## Cost",
        "## Numerical notes",
    ]
