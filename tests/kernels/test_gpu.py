"""On a real device: the numbers of the host, with CUDA itself watching for waits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from rflbat_kernels import (
    column_central_mean,
    column_median,
    column_trimmed_mean,
    column_two_means,
    cosines,
    distance_sums,
    distances,
    finite_rows,
    gap_statistic,
    gram,
    kmeans,
    masked_median,
    minority_counts,
    pca,
    pca_lowrank,
    silhouette,
    squared_distances,
    weighted_sum,
)
from tests.kernels.closeness import normal, uniform

pytestmark = pytest.mark.gpu

VALID = torch.arange(63) % 5 > 0
MATRIX = (normal(63, 1001) + 3 * normal(3, 1001, seed=1)[torch.arange(63) % 3]).float()
SQUARE = gram(MATRIX).centred_NN
POINTS = torch.stack([normal(63, 2), normal(63, 2, seed=1)])

CASES: dict[str, tuple[Callable[..., object], tuple[torch.Tensor, ...]]] = {
    "gram": (lambda x, v: gram(x, v, block_bytes=2**16), (MATRIX, VALID)),
    "weighted_sum": (weighted_sum, (uniform(63), MATRIX)),
    "finite_rows": (finite_rows, (MATRIX,)),
    "squared_distances": (squared_distances, (SQUARE,)),
    "cosines": (cosines, (SQUARE,)),
    "distances": (distances, (POINTS,)),
    "distance_sums": (distance_sums, (POINTS, VALID)),
    "pca": (lambda g, v: distances(pca(g, v)), (SQUARE, VALID)),
    "masked_median": (lambda x, v: masked_median(x, v[:, None], 0), (MATRIX, VALID)),
    "column_median": (lambda x, v: column_median(x, v, block_bytes=2**16), (MATRIX, VALID)),
    "column_trimmed_mean": (lambda x, v: column_trimmed_mean(x, v.sum() // 5, v), (MATRIX, VALID)),
    "column_central_mean": (lambda x, v: column_central_mean(x, v.sum() // 2, v), (MATRIX, VALID)),
    "column_two_means": (column_two_means, (MATRIX, VALID)),
    "minority_counts": (lambda x: minority_counts(x, column_two_means(x), x[0] > 0), (MATRIX,)),
    "kmeans": (lambda p, u, v: kmeans(p, (1, 2, 5), u, v), (POINTS, uniform(2, 3, 7, 5), VALID)),
    "gap_statistic": (lambda w: gap_statistic(w, (1, 2, 3, 4), 63), (uniform(6, 4),)),
    "silhouette": (lambda d, y: silhouette(d, y, (2, 3)), (distances(POINTS[0]), (uniform(2, 63) * 2).long())),
}


@contextmanager
def waits_raise() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", CASES)
def test_the_device_gives_the_numbers_of_the_host_without_a_wait(name: str) -> None:
    function, arguments = CASES[name]
    wanted = function(*arguments)
    on_device = [argument.cuda() for argument in arguments]
    function(*on_device)  # handles and workspaces are made on first use
    with waits_raise():
        got = function(*on_device)
    pairs = zip(got, wanted, strict=True) if isinstance(wanted, tuple) else [(got, wanted)]
    for device_part, host_part in pairs:
        assert device_part.is_cuda
        torch.testing.assert_close(device_part.cpu(), host_part, rtol=1e-9, atol=1e-7)


def test_lowrank_on_the_device_leaves_the_generators_alone() -> None:
    matrix = MATRIX.cuda()
    host, device = torch.get_rng_state(), torch.cuda.get_rng_state()
    got = pca_lowrank(matrix)
    assert torch.equal(torch.get_rng_state(), host)
    assert torch.equal(torch.cuda.get_rng_state(), device)
    torch.testing.assert_close(distances(got).cpu(), distances(pca(SQUARE)), rtol=1e-6, atol=1e-6)
