"""Every public operation against its definition in ``naive.py``, on ordinary, near-identical, bad and tiny inputs."""

import inspect
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import rflbat_kernels
from rflbat_kernels import RowSparse, SharedRows, TouchedRows, operations, using
from rflbat_kernels.dispatch import IMPLEMENTATIONS
from tests.kernels.closeness import normal, uniform

FOLDERS = ("gram", "hdbscan", "kmeans", "lstm_cell", "median", "order", "pairwise", "pca", "row_sparse")
NAIVE = [import_module(f"rflbat_kernels.{folder}.naive") for folder in FOLDERS]
DEFINITIONS = SimpleNamespace(
    **{
        name: value
        for module in NAIVE
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
    }
)
PUBLIC = SimpleNamespace(**(vars(rflbat_kernels) | vars(operations)))
Given = tuple[Tensor, Tensor | None]


def with_bad_rows() -> Given:
    """Every third row is invalid and holds NaN and Inf."""
    valid = torch.arange(13) % 3 > 0
    matrix = normal(13, 29) + 0.5
    matrix[~valid] = torch.nan
    matrix[~valid, ::2] = -torch.inf
    return matrix, valid


INPUTS: dict[str, Given] = {
    "random": (normal(13, 29) + 0.5, None),
    "random, float32": (normal(13, 29, dtype=torch.float32) - 2, None),
    "near-identical": (3 + 1e-6 * normal(13, 29), None),
    "identical": (normal(1, 29).expand(13, 29), None),
    "non-finite rows": with_bad_rows(),
    "no valid row": (torch.full((3, 5), torch.nan), torch.zeros(3).bool()),
    "one number": (normal(1, 1), None),
    "one column": (normal(4, 1), None),
    "two rows": (normal(2, 3), None),
}
"""A matrix of updates, and a mask of its valid rows."""


def all_rows(given: Given) -> Tensor:
    """The mask, written out."""
    return torch.ones(len(given[0])).bool() if given[1] is None else given[1]


def weights(given: Given) -> Tensor:
    """Weights of the rows, 0 for invalid rows."""
    return torch.where(all_rows(given), uniform(len(given[0])) - 0.3, 0.0)


def rows_of(given: Given) -> Tensor:
    """The matrix without what is not finite."""
    return given[0].nan_to_num(0.0, 0.0, 0.0)


def inner(given: Given) -> Tensor:
    """A Gram matrix, 0 for invalid rows."""
    return PUBLIC.gram(*given).anchored_NN


def draws(sets: int, numbers: int) -> Tensor:
    """Uniforms for three restarts."""
    return uniform(sets, numbers, 3, 4, seed=numbers)


def points(given: Given) -> Tensor:
    """Two point sets in the plane."""
    plane = rows_of(given)[:, :2]
    return torch.stack([plane, plane.flip(0) * 2])


def clustered(module: Any, given: Given) -> Any:
    """K-means of two sets of points."""
    valid = all_rows(given)
    return module.kmeans(points(given), (1, 3, 4), draws(2, 3), torch.stack([valid, valid.flip(0)]), iterations=7)


def inertia(given: Given) -> Tensor:
    """Inertia of the points, of the same points as a reference set, and of a random reference set."""
    random = PUBLIC.kmeans(uniform(1, 9, 2), (1, 3, 4), draws(1, 3))
    return torch.cat([clustered(PUBLIC, given).inertia_ML, random.inertia_ML])


def lstm(given: Given) -> tuple[Tensor, Tensor]:
    """The gates and the cell of a step."""
    cell = rows_of(given)
    return torch.cat([3 * cell, cell - 1, 1 - cell, -cell], -1), cell.flip(0)


def lstm_back(given: Given) -> tuple[Tensor, ...]:
    """The arguments of the backward pass of that step."""
    gates, cell = lstm(given)
    _, after, active = PUBLIC.lstm_cell(gates, cell)
    return cell + 1, cell - 2, active, cell, after


def row_sparse(given: Given) -> RowSparse:
    """Updates of a table of 5 words: word 3 is common, words 0 and 4 are own words of the first half of the rows."""
    rows, half = len(given[0]), (len(given[0]) + 1) // 2
    own_NR = torch.tensor([[0, 4] if i < half else [5, 5] for i in range(rows)])
    clients = torch.arange(half).expand(2, half)
    group = SharedRows(torch.tensor([0, 4]), clients, torch.tensor([[0], [1]]).expand(2, half))
    touched = TouchedRows(1, 5, 2, torch.tensor([3]), own_NR, (group,))
    return RowSparse(rows_of(given)[:, torch.arange(8) % given[0].shape[1]], touched)


def sparse_gram(by: Any, given: Given) -> tuple[Tensor, ...]:
    """The Gram matrices of those updates, by their distances if the origin may differ."""
    found = by.row_sparse_gram(row_sparse(given), given[1])
    return found.centred_NN, found.raw_NN, PUBLIC.squared_distances(found.anchored_NN)


def split(given: Given) -> Any:
    """Two clusters of each column."""
    return PUBLIC.column_two_means(*given)


CALLS: dict[str, Callable[[Any, Given], Any]] = {
    "gram": lambda by, given: by.gram(*given),
    "weighted_sum": lambda by, given: by.weighted_sum(weights(given), given[0]),
    "distances_to_sum": lambda by, given: by.distances_to_sum(weights(given), *given),
    "inner_products": lambda by, given: by.inner_products(given[0], rows_of(given)[0] + 1, given[1]),
    "finite_rows": lambda by, given: by.finite_rows(given[0]),
    "kmeans": clustered,
    "hdbscan": lambda by, given: torch.cat(
        [
            by.hdbscan(
                PUBLIC.distances(points(given)),
                given[1],
                min_cluster_size=size,
                min_samples=rank,
                allow_single_cluster=one,
            )
            for size, rank, one in ((None, 1, True), (None, 2, False), (2, 1, False), (3, 2, True))
        ]
    ),
    "gap_statistic": lambda by, given: by.gap_statistic(inertia(given), (1, 3, 4), all_rows(given).sum()),
    "silhouette": lambda by, given: by.silhouette(
        PUBLIC.distances(points(given)[0]), torch.arange(len(given[0])).remainder(3)[None], (3,), given[1]
    ),
    "lstm_cell": lambda by, given: by.lstm_cell(*lstm(given)),
    "lstm_cell_backward": lambda by, given: by.lstm_cell_backward(*lstm_back(given)),
    "masked_median": lambda by, given: by.masked_median(given[0], all_rows(given)[:, None], 0),
    "column_median": lambda by, given: by.column_median(*given),
    "column_trimmed_mean": lambda by, given: by.column_trimmed_mean(given[0], torch.tensor(2), given[1]),
    "column_central_mean": lambda by, given: by.column_central_mean(given[0], torch.tensor(3), given[1]),
    "column_two_means": lambda by, given: by.column_two_means(*given),
    "minority_counts": lambda by, given: by.minority_counts(given[0], split(given), split(given).distance_D > 1),
    "squared_distances": lambda by, given: by.squared_distances(inner(given)),
    "cosines": lambda by, given: by.cosines(PUBLIC.gram(*given).raw_NN),
    "distances": lambda by, given: by.distances(points(given)),
    "distance_sums": lambda by, given: by.distance_sums(points(given), given[1]),
    "pca": lambda by, given: by.pca(inner(given), given[1], components=2),
    "pca_lowrank": lambda by, given: by.pca_lowrank(*given, components=2),
    "row_sparse_gram": sparse_gram,
    "row_sparse_weighted_sum": lambda by, given: by.row_sparse_weighted_sum(weights(given), row_sparse(given)),
}
"""A call of each operation by the public function or by the definition."""


def parts(found: Any) -> tuple[Tensor, ...]:
    return tuple(found) if isinstance(found, tuple) else (found,)


def eps(part: Tensor, given: str) -> float:
    """The definitions subtract numbers of 3 + 1e-6 x: of the differences 1e-16 / 1e-6 is rounding."""
    return 1e-6 if part.dtype == torch.float32 else 1e-9 if given == "near-identical" else 1e-13


@pytest.mark.parametrize("implementation", ["auto", "torch"])
@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("op", CALLS)
def test_equals_its_definition(op: str, given: str, implementation: str) -> None:
    with using({name: implementation for name, row in IMPLEMENTATIONS.items() if "cpu" in row}):
        got, wanted = (parts(CALLS[op](by, INPUTS[given])) for by in (PUBLIC, DEFINITIONS))
    for part, truth in zip(got, wanted, strict=True):
        assert (part.dtype, part.shape) == (truth.dtype, truth.shape)
        if not part.is_floating_point():
            assert torch.equal(part, truth)
            continue
        largest = float(truth.nan_to_num(0.0, 0.0, 0.0).abs().max()) if truth.numel() else 0.0
        torch.testing.assert_close(part, truth, rtol=0.0, atol=eps(part, given) * largest + 1e-15, equal_nan=True)


def test_every_public_operation_has_a_definition() -> None:
    functions = {name for name in rflbat_kernels.__all__ if inspect.isfunction(getattr(rflbat_kernels, name))}
    assert functions - {"choose", "using"} | {"lstm_cell", "lstm_cell_backward"} == set(CALLS)
    assert set(CALLS) <= set(vars(DEFINITIONS))
