"""Principal component scores against the oracle's SVD and scikit-learn; the solvers against each other."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from rflbat_kernels import distances, gram, pca, pca_lowrank
from tests.kernels.closeness import assert_near, normal
from tests.oracles import kernels as oracle

SOLVERS = ["eigh", "squaring", "krylov"]


def clusters(rows: int = 63, columns: int = 101, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Three clusters of rows, so that two components stand out."""
    centres = 5 * normal(3, columns, seed=1)
    return (centres[torch.arange(rows) % 3] + normal(rows, columns, seed=2)).to(dtype)


def spectrum(*values: float, rows: int = 63) -> torch.Tensor:
    """A centred Gram matrix of `rows` rows with these eigenvalues, and 0 for the rest."""
    start = torch.cat([torch.ones(rows, 1, dtype=torch.float64), normal(rows, len(values))], 1)
    vectors = torch.linalg.qr(start)[0][:, 1:]
    return (vectors * torch.tensor(values, dtype=torch.float64)) @ vectors.T


def signed(scores: torch.Tensor) -> torch.Tensor:
    """Scores with the sign convention of the kernels."""
    largest = scores.abs().argmax(0, keepdim=True)
    return scores * scores.gather(0, largest).sign()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 63), (63, 101), (101, 7)])
def test_equals_the_oracle_and_scikit_learn(shape: tuple[int, int], dtype: torch.dtype, solver: str) -> None:
    matrix = normal(*shape, dtype=dtype) + 2
    matrix[::3, 0] += 9
    got = pca(gram(matrix).centred_NN, solver=solver)
    assert_near(got, signed(torch.from_numpy(oracle.pca(matrix, 2))), 1e-11)
    by_sklearn = PCA(2, svd_solver="full").fit_transform(matrix.double().numpy())
    assert_near(got, signed(torch.from_numpy(by_sklearn)), 1e-11)


@pytest.mark.parametrize("components", [1, 2, 3, 5])
def test_any_number_of_components(components: int) -> None:
    matrix = normal(23, 63) * torch.linspace(3, 1, 63)
    wanted = signed(torch.from_numpy(oracle.pca(matrix, components)))
    for got in (*(pca(gram(matrix).centred_NN, components=components, solver=s) for s in SOLVERS),):
        assert_near(got, wanted, 1e-10)
    assert_near(pca_lowrank(matrix, components=components), wanted, 1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_origin_of_the_gram_does_not_matter(solver: str) -> None:
    matrix = clusters()
    got = gram(matrix + 10)
    wanted = pca(got.centred_NN, solver=solver)
    assert_near(pca(got.raw_NN, solver=solver), wanted, 1e-10)
    assert_near(pca(got.anchored_NN, solver=solver), wanted, 1e-12)


@pytest.mark.parametrize("gap", [0.5, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 2.4e-7, 6e-8, 1e-8, 1e-12, 0.0])
def test_the_solvers_agree_at_any_gap(gap: float) -> None:
    matrix = spectrum(1.0, 1 - gap, 0.9 * (1 - gap), 0.3, 0.1, 1e-5)
    by_eigh, *others = (pca(matrix, solver=solver) for solver in SOLVERS)
    for other in others:
        assert_near(distances(other), distances(by_eigh), 3e-8)
        if gap >= 1e-3:
            assert_near(other, by_eigh, 1e-11)


def test_the_solvers_agree_on_noise_of_many_rows() -> None:
    centred = gram(normal(257, 1001)).centred_NN
    by_eigh, *others = (pca(centred, solver=solver) for solver in SOLVERS)
    for other in others:
        assert_near(distances(other), distances(by_eigh), 1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_components_beyond_the_rank_are_exactly_zero(rank: int, solver: str) -> None:
    got = pca(gram(normal(13, rank) @ normal(rank, 63, seed=1)).centred_NN, components=3, solver=solver)
    assert (got[:, :rank].abs().amax(0) > 0.1).all()
    assert (got[:, rank:] == 0).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_two_and_no_rows(solver: str) -> None:
    assert torch.equal(pca(torch.ones(1, 1), solver=solver), torch.zeros(1, 2, dtype=torch.float64))
    matrix = normal(2, 63)
    half = (matrix[0] - matrix[1]).norm().item() / 2
    assert_near(pca(gram(matrix).centred_NN, components=3, solver=solver), [[half, 0, 0], [-half, 0, 0]], 1e-14)
    assert pca(torch.ones(0, 0), solver=solver).shape == (0, 2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_rounding_does_not_choose_the_sign(solver: str) -> None:
    """Rows in pairs of opposite ones: of the two largest entries the first is positive."""
    for seed in range(20):
        half = normal(4, 63, seed=seed)
        got = pca(gram(torch.cat([half, -half])).centred_NN, solver=solver)
        assert (got[:4].gather(0, got[:4].abs().argmax(0, keepdim=True)) > 0).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_rows_score_exactly_zero(dtype: torch.dtype, solver: str) -> None:
    matrix = (normal(101, dtype=dtype) / 3).expand(7, -1)
    assert (pca(gram(matrix).centred_NN, solver=solver) == 0).all()
    assert (pca(gram(matrix).raw_NN, solver=solver) == 0).all()
    assert (pca_lowrank(matrix) == 0).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_rounding_is_not_blown_up_to_a_plane(solver: str) -> None:
    for seed in range(20):
        noise = 1e-16 * normal(7, 7, seed=seed)
        equal_but_for_rounding = 1 / 3 + noise + noise.T
        assert len(equal_but_for_rounding.unique()) > 1
        assert (pca(equal_but_for_rounding, solver=solver) == 0).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_equal_rows_are_equal_points(solver: str) -> None:
    matrix = clusters(101, 1001)
    matrix[[5, 50, 99, 100]] = matrix[0].clone()
    got = pca(gram(matrix).centred_NN, solver=solver)
    assert (distances(got[[0, 5, 50, 99, 100]]) == 0).all()
    assert len(got.unique(dim=0)) == 97


@pytest.mark.parametrize("back_end", [*SOLVERS, "lowrank"])
def test_invalid_rows_leak_nothing_and_score_zero(back_end: str) -> None:
    def scores(matrix: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        if back_end == "lowrank":
            return pca_lowrank(matrix, valid)
        return pca(gram(matrix, valid).centred_NN, valid, solver=back_end)

    matrix, valid = clusters(), torch.arange(63) % 4 > 0
    wanted = scores(matrix[valid], None)
    matrix[~valid, ::2], matrix[~valid, 1::2] = torch.nan, torch.inf
    got = scores(matrix, valid)
    assert_near(got[valid], wanted, 1e-10)
    assert (got[~valid] == 0).all()
    assert (scores(matrix, torch.zeros(63, dtype=torch.bool)) == 0).all()
    one = torch.arange(63) == 6
    assert (scores(matrix, one) == 0).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_nan_in_invalid_entries_of_the_gram_leaks_nothing(solver: str) -> None:
    matrix, valid = gram(clusters()).centred_NN, torch.arange(63) % 4 > 0
    wanted = pca(matrix, valid, solver=solver)
    matrix[~valid] = torch.nan
    matrix[:, ~valid] = torch.inf
    assert torch.equal(pca(matrix, valid, solver=solver), wanted)


@pytest.mark.parametrize("scale", [1e38, 1e-38])
@pytest.mark.parametrize("back_end", [*SOLVERS, "lowrank"])
def test_huge_and_tiny_rows(back_end: str, scale: float) -> None:
    matrix = clusters()
    wanted = oracle.pca(matrix, 2)
    scaled = matrix * scale
    got = pca_lowrank(scaled) if back_end == "lowrank" else pca(gram(scaled).centred_NN, solver=back_end)
    assert_near(got / scale, signed(torch.from_numpy(wanted)), 1e-11)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("length", [1e5, 1e6, 1e12, 1e30])
def test_a_far_row_does_not_blur_the_others(length: float, solver: str) -> None:
    """It takes the first axis; too far to be placed on the second one, it scores the mean of the others there."""
    matrix = torch.cat([clusters(63), torch.zeros(63, 1, dtype=torch.float64)], 1)
    matrix[62] = 0
    matrix[62, -1] = length
    got = pca(gram(matrix).anchored_NN, solver=solver)
    if length <= 1e6:
        assert_near(got, signed(torch.from_numpy(oracle.pca(matrix, 2))), 1e-11)
        assert_near(got[:, 1], signed(torch.from_numpy(oracle.pca(matrix, 2)))[:, 1], 1e-11)
        return
    assert got[62, 0] == pytest.approx(length * 62 / 63, rel=1e-9)
    assert_near(got[:62, 1:], signed(torch.from_numpy(oracle.pca(matrix[:62], 1))), 1e-9)
    assert got[62, 1].abs() <= 1e-12


@pytest.mark.parametrize("back_end", [*SOLVERS, "lowrank"])
def test_a_large_common_part_in_float32(back_end: str) -> None:
    matrix = (1e3 + 1e-2 * clusters()).to(torch.float32)
    got = pca_lowrank(matrix) if back_end == "lowrank" else pca(gram(matrix).centred_NN, solver=back_end)
    assert_near(got, signed(torch.from_numpy(oracle.pca(matrix, 2))), 1e-10)


@pytest.mark.parametrize("back_end", [*SOLVERS, "lowrank"])
def test_a_permutation_of_rows_permutes_the_answer(back_end: str) -> None:
    matrix = clusters()
    order = torch.from_numpy(np.random.default_rng(1).permutation(63))
    if back_end == "lowrank":
        moved, still = pca_lowrank(matrix[order]), pca_lowrank(matrix)
    else:
        moved, still = (pca(gram(rows).centred_NN, solver=back_end) for rows in (matrix[order], matrix))
    assert_near(moved, still[order], 1e-10)


def test_the_largest_entry_is_positive() -> None:
    matrix = clusters()
    for got in (pca(gram(matrix).centred_NN), pca(gram(-matrix).centred_NN), pca_lowrank(matrix), pca_lowrank(-matrix)):
        assert (got.gather(0, got.abs().argmax(0, keepdim=True)) > 0).all()


@pytest.mark.parametrize("shape", [(63, 101), (101, 63), (5, 1001), (257, 301), (301, 257)])
def test_lowrank_gives_the_same_distances(shape: tuple[int, int]) -> None:
    matrix = clusters(*shape, dtype=torch.float32)
    assert_near(distances(pca_lowrank(matrix)), distances(pca(gram(matrix).centred_NN)), 1e-6)


def test_lowrank_is_exact_on_noise_of_few_rows() -> None:
    matrix = normal(101, 301)
    assert_near(distances(pca_lowrank(matrix)), distances(pca(gram(matrix).centred_NN)), 1e-10)


def test_lowrank_leaves_the_generators_alone_and_depends_on_its_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(seed: int) -> None:
        raise AssertionError("a CUDA generator was seeded for a matrix on the CPU")

    matrix = normal(257, 301)
    torch.manual_seed(7)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "manual_seed_all", touched)
        first, second, other = pca_lowrank(matrix), pca_lowrank(matrix), pca_lowrank(matrix, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numpy_before  # noqa: NPY002
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    torch.manual_seed(8)
    assert torch.equal(pca_lowrank(matrix), first)


@pytest.mark.parametrize("shape", [(1, 63), (2, 63), (7, 1), (5, 2), (0, 63), (7, 0)])
def test_lowrank_of_few_rows_or_columns(shape: tuple[int, int]) -> None:
    matrix = normal(*shape)
    got = pca_lowrank(matrix, components=3)
    assert got.shape == (shape[0], 3)
    assert_near(distances(got), distances(pca(gram(matrix).centred_NN, components=3)), 1e-6)


def test_any_layout_is_read_and_none_is_written() -> None:
    matrix = normal(63, 63)
    both = matrix + matrix.T
    before = both.clone()
    assert torch.equal(pca(both.T), pca(both))
    assert_near(pca_lowrank(both[::2].T), pca_lowrank(both[::2].T.contiguous()), 1e-12)
    assert torch.equal(both, before)


def test_no_graph_is_built() -> None:
    matrix = normal(7, 7).requires_grad_()
    results = [pca(matrix, solver="eigh"), pca(matrix, solver="squaring"), pca_lowrank(matrix)]
    assert not any(result.requires_grad for result in results)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="solver is 'svd'; allowed: auto, eigh, squaring"):
        pca(torch.eye(3), solver="svd")
    with pytest.raises(ValueError, match=r"shape \(3, 4\)"):
        pca(torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"shape \(2,\); allowed: torch.bool of shape \(3,\)"):
        pca(torch.eye(3), torch.ones(2, dtype=torch.bool))
    for function in (pca, pca_lowrank):
        with pytest.raises(ValueError, match="components is 0"):
            function(torch.eye(3), components=0)
    with pytest.raises(ValueError, match=r"torch.float32 of shape \(3,\)"):
        pca_lowrank(torch.ones(3))
