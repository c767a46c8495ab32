"""The choice of implementations, the list of public names, and the page of each operation."""

import importlib
import logging
from pathlib import Path

import pytest
import torch

import rflbat_kernels as kernels
from rflbat_kernels import choose, dispatch, gram, pca
from tests.kernels.closeness import normal, uniform

FOLDER = Path(kernels.__path__[0])


@pytest.fixture(autouse=True)
def nothing_logged_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_logged", set())


def test_the_table() -> None:
    assert {op: list(row) for op, row in dispatch.IMPLEMENTATIONS.items()} == {
        "gram": ["reference"],
        "weighted_sum": ["reference"],
        "pairwise": ["reference"],
        "median": ["reference"],
        "column_median": ["reference"],
        "column_trimmed_mean": ["reference"],
        "column_central_mean": ["reference"],
        "column_two_means": ["reference"],
        "kmeans": ["reference"],
        "pca": ["eigh", "squaring", "lowrank"],
    }


def test_every_implementation_runs() -> None:
    matrix = normal(7, 63)
    square = gram(matrix).centred_NN
    arguments = {
        "gram": (matrix,),
        "weighted_sum": (normal(7), matrix),
        "pairwise": (square,),
        "median": (matrix, matrix > 0),
        "column_median": (matrix,),
        "column_trimmed_mean": (matrix, torch.tensor(1)),
        "column_central_mean": (matrix, torch.tensor(3)),
        "column_two_means": (matrix,),
        "kmeans": (matrix[None], (2,), uniform(1, 1, 3, 2)),
    }
    for op, row in dispatch.IMPLEMENTATIONS.items():
        for name in row:
            choice = choose(op, name)
            assert (choice.op, choice.name, choice.reason) == (op, name, "asked for by name")
            if op == "pca":
                scores = choice.function(matrix if name == "lowrank" else square, components=3)
                torch.testing.assert_close(scores, pca(square, components=3))
            else:
                choice.function(*arguments[op])


@pytest.mark.parametrize("op", ["gram", "weighted_sum", "pairwise", "median", "kmeans"])
@pytest.mark.parametrize("device", ["cpu", "cuda", torch.device("cuda", 1)])
def test_auto_takes_the_only_implementation(op: str, device: torch.device | str) -> None:
    choice = choose(op, device=device)
    assert (choice.name, choice.reason) == ("reference", "the only implementation")


def test_auto_chooses_the_solver_of_pca_by_device() -> None:
    assert choose("pca").name == "eigh"
    on_device = choose("pca", device="cuda:0")
    assert on_device.name == "squaring"
    assert "reads its status back" in on_device.reason


@pytest.mark.parametrize(
    ("op", "implementation", "message"),
    [
        ("grim", "auto", "there is no operation 'grim'; did you mean 'gram'? Allowed: gram, weighted_sum"),
        ("xyz", "auto", "there is no operation 'xyz'. Allowed: gram, weighted_sum"),
        ("pca", "low_rank", "pca has no implementation 'low_rank'; did you mean 'lowrank'? Allowed: auto, eigh"),
        ("gram", "triton", "gram has no implementation 'triton'. Allowed: auto, reference"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest_and_the_allowed(
    op: str, implementation: str, message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        choose(op, implementation)
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
        "gram on cpu: reference",
        "pca on cuda: squaring",
        "pca on cuda: eigh",
    ]
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_every_public_name_is_listed_and_documented() -> None:
    assert kernels.__all__ == sorted(kernels.__all__)
    for name in kernels.__all__:
        assert getattr(kernels, name).__doc__
    for op in ("gram", "pairwise", "pca", "kmeans", "median", "order"):
        assert set(importlib.import_module(f"rflbat_kernels.{op}").__all__) <= set(kernels.__all__)


@pytest.mark.parametrize("op", ["gram", "pairwise", "pca", "kmeans", "median", "order"])
def test_every_operation_has_its_page(op: str) -> None:
    page = (FOLDER / op / "README.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Formula",
        "## Layout",
        "## Cost",
        "## Numerical notes",
    ]
