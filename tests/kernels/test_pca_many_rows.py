"""Principal component scores of many rows, which go by a Krylov basis, against numpy's eigh on hard spectra."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from rflbat_kernels import distances, gram, pca
from rflbat_kernels.pca import krylov
from rflbat_kernels.pca.krylov import krylov_vector
from rflbat_kernels.pca.torch import LARGE, _squaring
from tests.kernels.closeness import assert_near, normal

ROWS = LARGE + 16
SPECTRA = {
    "stands out": np.concatenate([[1.0, 0.6, 0.3], 0.01 * np.linspace(1, 0, ROWS - 4)]),
    "power law": 1 / np.arange(1.0, ROWS),
    "gap 1e-3": np.concatenate([[1.0, 1 - 1e-3, 0.9], np.linspace(0.89, 0, ROWS - 4)]),
    "gap 1e-6": np.concatenate([[1.0, 1 - 1e-6, 0.9], np.linspace(0.89, 0, ROWS - 4)]),
    "twice the same": np.concatenate([[1.0, 1.0, 0.9], np.linspace(0.89, 0, ROWS - 4)]),
    "evenly spaced": np.linspace(1, 0, ROWS - 1),
    "edge of noise": 1 - np.linspace(0, 1, ROWS - 1) ** (2 / 3),
}
"""Eigenvalues of a centred Gram matrix."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Many small products: threads that wait for each other beside other tests cost more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


def centred_gram(values: np.ndarray) -> torch.Tensor:
    """A matrix with these eigenvalues, whose rows sum to 0."""
    rows = len(values) + 1
    start = np.concatenate([np.ones((rows, 1)), normal(rows, rows - 1).numpy()], 1)
    vectors = np.linalg.qr(start)[0][:, 1:]
    return torch.from_numpy((vectors * values) @ vectors.T)


def by_numpy(centred: torch.Tensor, components: int = 2) -> torch.Tensor:
    """Scores `u_k sqrt(lambda_k)`, the largest entry of a column positive."""
    values, vectors = np.linalg.eigh(centred.numpy())
    scores = (vectors * np.sqrt(values.clip(0)))[:, : -components - 1 : -1]
    return torch.from_numpy(scores * np.sign(np.take_along_axis(scores, np.abs(scores).argmax(0)[None], 0)))


@pytest.mark.parametrize("name", SPECTRA)
def test_equals_eigh(name: str) -> None:
    centred = centred_gram(SPECTRA[name])
    got, wanted = pca(centred), by_numpy(centred)
    assert_near(distances(got), distances(wanted), 1e-8)
    values = SPECTRA[name]
    if values[0] - values[1] >= 1e-3:  # else the axes may turn in their plane
        assert_near(got, wanted, 1e-8)


def test_noise_and_rows_that_are_left_out() -> None:
    matrix, valid = normal(ROWS, 900), torch.arange(ROWS) % 5 > 0
    wanted = by_numpy(gram(matrix[valid]).centred_NN)
    matrix[~valid] = torch.nan
    got = pca(gram(matrix, valid).anchored_NN, valid)
    assert_near(got[valid], wanted, 1e-8)
    assert (got[~valid] == 0).all()


def test_few_rows_that_count_among_many() -> None:
    valid = torch.arange(ROWS) % 300 == 7
    matrix = normal(ROWS, 63)
    got = pca(gram(matrix, valid).anchored_NN, valid, components=5)
    assert_near(got[valid], pca(gram(matrix[valid]).anchored_NN, components=5), 1e-10)
    assert (pca(gram(matrix, valid & ~valid).anchored_NN, valid & ~valid) == 0).all()


def test_equal_rows_and_little_rank() -> None:
    matrix = normal(ROWS, 2) @ normal(2, 63, seed=1)
    matrix[500:600] = matrix[0].clone()
    got = pca(gram(matrix).centred_NN, components=3)
    assert_near(got[:, :2], by_numpy(gram(matrix).centred_NN), 1e-10)
    assert (got[:, 2] == 0).all()
    assert (distances(got[[0, *range(500, 600)]]) == 0).all()
    assert (pca(gram(matrix[:1].expand(ROWS, -1)).centred_NN) == 0).all()


def test_auto_is_krylov_and_stops_once_it_is_good_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    real = krylov._looked_at

    def counted(*args: torch.Tensor) -> tuple[torch.Tensor, bool]:
        looks.append(real(*args))
        return looks[-1]

    monkeypatch.setattr(krylov, "_looked_at", counted)
    pca(centred_gram(SPECTRA["stands out"]), components=1)
    assert [good for _, good in looks] == [True]
    pca(centred_gram(SPECTRA["edge of noise"]), components=1)
    *early, last = [good for _, good in looks[1:]]
    assert early
    assert not any(early)
    assert last


@pytest.mark.parametrize("values", [1 / np.arange(1.0, 300), 1 - np.linspace(0, 1, 299) ** (2 / 3)])
def test_what_a_device_does_gives_the_same(values: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """There nothing looks, and the small eigenproblem goes by squaring; with a basis smaller than the matrix."""
    monkeypatch.setattr(krylov, "STEPS", 32)
    centred = centred_gram(values)
    unit = centred / centred.diagonal().sum()
    got = krylov_vector(unit, _squaring, look=False)
    wanted = torch.from_numpy(np.linalg.eigh(centred.numpy())[1][:, -1])
    assert_near(got * (got @ wanted).sign(), wanted, 1e-8)


def test_the_basis_stays_orthonormal_where_the_rank_is_used_up() -> None:
    basis = normal(63, 3) @ normal(3, 16, seed=1)
    block = krylov._orthonormal(basis[:, :8], basis[:, :0])
    product = block.T @ block
    assert_near(product, torch.diag((product.diagonal() > 0.5).double()), 1e-14)
    assert product.diagonal().sum().item() >= 3
    assert torch.linalg.matrix_rank(block).item() == product.diagonal().sum().round().item()
