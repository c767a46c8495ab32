"""Principal component scores, from a Gram matrix or from the matrix itself.

Axes: N rows (clients), D columns (parameters), H components.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from rflbat_kernels.gram.base import check_mask, double_centre, stand_ins
from rflbat_kernels.gram.torch import column_anchors
from rflbat_kernels.median.torch import masked_median
from rflbat_kernels.pca.krylov import krylov_vector

SOLVERS = ("auto", "eigh", "squaring", "krylov")
LARGE = 1024
"""Most rows for which "auto" selects a solver with N^3 operations."""
SQUARINGS = 24
"""Number of squarings: K to the power 2^24 separates two eigenvalues down to a relative gap of 1e-6."""
OVERSAMPLING, POWER_ITERATIONS = 10, 32
"""Randomised SVD: directions sampled in addition to the components, and power iterations."""
SPANNED, SPANNED_ITERATIONS = 128, 2
"""Up to this number of rows or columns the randomised SVD samples all directions, with this number of iterations: it is
cheaper than many power iterations and exact for any spectrum."""
_EPS = torch.finfo(torch.float64).eps
_SAME = 64 * _EPS
"""Squared distances below this fraction of the two squared norms are rounding."""


def solver_for(device: torch.device, rows: int) -> str:
    """Return the name of the solver that "auto" selects.

    Args:
        device: device of the Gram matrix.
        rows: number of rows N.

    Returns:
        "krylov" beyond 1,024 rows; below, "eigh" on the CPU and "squaring" elsewhere.

    Example:
        >>> solver_for(torch.device("cuda"), 100), solver_for(torch.device("cpu"), 100)
        ('squaring', 'eigh')
        >>> solver_for(torch.device("cpu"), 10_000)
        'krylov'
    """
    if rows > LARGE:
        return "krylov"
    return "eigh" if device.type == "cpu" else "squaring"


@torch.no_grad()
def pca(gram_NN: Tensor, valid_N: Tensor | None = None, *, components: int = 2, solver: str = "auto") -> Tensor:
    """Compute the scores of the rows on their first principal components, from their Gram matrix.

    The components are computed one at a time. Let ``K = H G H``, where H centres over the valid rows (so the origin of
    G does not matter), with top eigenvector u. The axis is ``v = sum u_i d_i / sigma`` with ``sigma^2 = u' G u``, the
    scores are ``s = G u / sigma``, and ``G <- G - s s'`` removes the axis. Scores and remainder are accurate to the
    rounding of each row's OWN norm, so one row of norm 1e12 does not blur the plane of the others. A row whose rounding
    exceeds the median remaining norm cannot be placed on the next axis: it is excluded from then on and scores the
    mean. Rows that are closer to each other than their rounding get the same score, so equal rows are equal points.

    Args:
        gram_NN: inner products about any origin; most accurate with ``gram(x).anchored_NN``.
        valid_N: bool, mask of valid rows. None: all are valid.
        components: number of columns, at least 1; columns beyond the rank are 0.
        solver: method for u: "eigh" (``torch.linalg.eigh``; synchronises on CUDA), "squaring" (matrix products only, no
            synchronisation; distances between scores are accurate to 3e-8 of the largest at any gap between
            eigenvalues), "krylov" (products with few columns only, no synchronisation; for many rows), or "auto":
            krylov beyond 1,024 rows, otherwise eigh on a CPU and squaring elsewhere.

    Returns:
        (N, components) float64, centred. The entry of largest magnitude of each column (the first of nearly equal
        ones) is positive; invalid rows score 0.

    Raises:
        ValueError: wrong shape, ``components`` below 1, unknown solver.

    Example:
        >>> pca(torch.tensor([[4.0, -4.0], [-4.0, 4.0]])).tolist()
        [[2.0, 0.0], [-2.0, 0.0]]

    Source: Gower 1966 (principal coordinates).
    """
    rows = len(gram_NN)
    if gram_NN.shape != (rows, rows):
        raise ValueError(f"the Gram matrix has shape {tuple(gram_NN.shape)}; allowed: (N, N)")
    check_mask(valid_N, rows)
    _check_components(components)
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}; allowed: {', '.join(SOLVERS)}")
    if rows == 0:
        return gram_NN.new_zeros(0, components, dtype=torch.float64)
    if valid_N is None:
        valid_N = torch.ones(rows, dtype=torch.bool, device=gram_NN.device)
    left_NN = torch.where(valid_N[:, None] & valid_N[None, :], gram_NN.to(torch.float64), 0.0)
    find = _finder(solver_for(left_NN.device, rows) if solver == "auto" else solver, left_NN.device)
    equal_N, squares_N = _first_equal(left_NN), left_NN.diagonal()
    rounding_N = (64 + 4 * rows) * _EPS * squares_N
    placed_N, columns = valid_N, []
    for _ in range(min(components, rows)):
        score_N = _axis_scores(left_NN, placed_N, squares_N, find)
        columns.append(_centre_scores(score_N, placed_N, valid_N).index_select(0, equal_N))
        left_NN = left_NN - torch.outer(score_N, score_N)
        placed_N = placed_N & (rounding_N <= masked_median(left_NN.diagonal(), valid_N))
    return _finish(torch.stack(columns, 1), valid_N, components)


def _finder(solver: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function that finds the top eigenvector of a matrix of trace 1."""
    if solver == "krylov":
        on_host = device.type == "cpu"
        return partial(krylov_vector, find=_eigh if on_host else _squaring, look=on_host)
    return _eigh if solver == "eigh" else _squaring


def _axis_scores(left_NN: Tensor, placed_N: Tensor, squares_N: Tensor, find: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute the scores ``G u / sigma`` on the first axis of the placed rows, about the origin of G.

    The scores are 0 if only rounding remains of G.
    """
    centred_NN = double_centre(left_NN, placed_N)
    trace = centred_NN.diagonal().sum()
    # Centring equal rows leaves only rounding, which must not be amplified to a component.
    trace = torch.where(trace > len(left_NN) * _EPS * torch.where(placed_N, squares_N, 0.0).sum(), trace, 0.0)
    vector_N = torch.where(placed_N, find(_over(centred_NN, trace)), 0.0)
    # Make u sum to exactly 0; otherwise a distant origin would leak into the scores.
    vector_N = torch.where(placed_N, vector_N - vector_N.sum() / placed_N.sum().clamp_min(1), 0.0)
    image_N = left_NN @ vector_N
    return torch.where(trace > 0, _over(image_N, vector_N.dot(image_N).clamp_min(0.0).sqrt()), 0.0)


def _centre_scores(score_N: Tensor, placed_N: Tensor, valid_N: Tensor) -> Tensor:
    """Set rows that are not placed to the mean of the others, then centre the scores."""
    score_N = torch.where(placed_N, score_N, torch.where(placed_N, score_N, 0.0).sum() / placed_N.sum().clamp_min(1))
    mean = torch.where(valid_N, score_N, 0.0).sum() / valid_N.sum().clamp_min(1)
    return torch.where(valid_N, score_N - mean, 0.0)


def _check_components(components: int) -> None:
    if components < 1:
        raise ValueError(f"components is {components}; allowed: at least 1")


def _first_equal(gram_NN: Tensor) -> Tensor:
    """Return for each row the index of the first row that is equal to it up to rounding."""
    squares_N = gram_NN.diagonal()
    size_NN = squares_N[:, None] + squares_N[None, :]
    return (size_NN - 2 * gram_NN <= _SAME * size_NN).to(torch.uint8).argmax(1)


def _eigh(unit_NN: Tensor) -> Tensor:
    """Compute the top eigenvector of a matrix of trace 1 (or of the zero matrix)."""
    vectors_NN: Tensor = torch.linalg.eigh(unit_NN)[1]
    return vectors_NN[:, -1]


def _squaring(unit_NN: Tensor) -> Tensor:
    """Compute the top eigenvector of a matrix of trace 1 (or of the zero matrix) by repeated squaring."""
    power_NN = unit_NN
    for _ in range(SQUARINGS):
        power_NN = power_NN @ power_NN
        power_NN = _over(power_NN + power_NN.T, 2 * power_NN.diagonal().sum())
    column = power_NN.diagonal().argmax()
    vector_N = _over(power_NN.index_select(1, column[None])[:, 0])
    # One multiplication by the matrix itself removes the rounding accumulated by the squarings.
    return _over(unit_NN @ vector_N)


def _over(tensor: Tensor, scale: Tensor | None = None) -> Tensor:
    """Divide by a scale (None: the norm); the result is 0 if the scale is not positive."""
    scale = torch.linalg.vector_norm(tensor) if scale is None else scale
    return torch.where(scale > 0, tensor / torch.where(scale > 0, scale, 1.0), 0.0)


def _finish(scores_NH: Tensor, valid_N: Tensor | None, components: int) -> Tensor:
    """Fix the signs, zero the invalid rows and append the missing columns."""
    if valid_N is not None:
        scores_NH = torch.where(valid_N[:, None], scores_NH, 0.0)
    size_NH = scores_NH.abs()
    # Treat nearly equal magnitudes as equal, or rounding would choose the sign (two rows always score +a and -a).
    peak_H = (size_NH >= (1 - 1e-6) * size_NH.amax(0)).to(torch.uint8).argmax(0)
    # + 0.0 turns -0.0 into 0.0.
    scores_NH = scores_NH * scores_NH.gather(0, peak_H[None]).sign() + 0.0
    return torch.nn.functional.pad(scores_NH, (0, components - scores_NH.shape[1]))


@torch.no_grad()
def pca_lowrank(matrix_ND: Tensor, valid_N: Tensor | None = None, *, components: int = 2, seed: int = 0) -> Tensor:
    """Compute the scores of the rows on their first principal components by a randomised SVD of the matrix.

    An alternative to ``pca``: ``torch.pca_lowrank`` finds the axes V of the centred matrix, and the scores are
    ``(d_i - m) V``. It works on a float64 copy of the WHOLE matrix and synchronises on CUDA (QR and SVD read their
    status back). It is exact for min(N, D) <= 128. Beyond that it samples q = components + 10 directions, and the angle
    to the true axes shrinks as ``(sigma_{q+1} / sigma_components) ** 65``: accurate if the leading components dominate,
    but not for pure noise.

    Args:
        matrix_ND: any float type, any strides. No gradient is recorded.
        valid_N: bool, mask of valid rows. Invalid rows may hold NaN or Inf; they are replaced by the mean of the valid
            rows, which changes neither the mean nor the axes. None: all are valid.
        components: number of columns, at least 1; columns beyond N or D are 0.
        seed: seed of the random start; the state of the caller's generators is preserved.

    Returns:
        (N, components) float64, signs as in ``pca``; invalid rows score 0.

    Raises:
        ValueError: wrong shape or type, ``components`` below 1.

    Example:
        >>> pca_lowrank(torch.tensor([[0.0, 2.0], [0.0, -2.0]])).round(decimals=9).abs().tolist()
        [[2.0, 0.0], [2.0, 0.0]]

    Source: Halko, Martinsson and Tropp 2011.
    """
    if matrix_ND.ndim != 2 or not matrix_ND.is_floating_point():
        raise ValueError(f"the matrix is {matrix_ND.dtype} of shape {tuple(matrix_ND.shape)}; allowed: float (N, D)")
    rows, columns = matrix_ND.shape
    check_mask(valid_N, rows)
    _check_components(components)
    if rows == 0 or columns == 0:
        return matrix_ND.new_zeros(rows, components, dtype=torch.float64)
    if valid_N is None:
        valid_N = torch.ones(rows, dtype=torch.bool, device=matrix_ND.device)
    centred_ND = matrix_ND.index_select(0, stand_ins(valid_N)).to(torch.float64)
    centred_ND.sub_(column_anchors(centred_ND)).masked_fill_(~valid_N[:, None], 0.0)
    centred_ND.sub_(centred_ND.sum(0) / valid_N.sum().clamp_min(1)).masked_fill_(~valid_N[:, None], 0.0)
    axes_DH = _principal_axes(centred_ND, components, seed)[:, :components]
    return _finish(centred_ND @ axes_DH, valid_N, components)


def _principal_axes(centred_ND: Tensor, components: int, seed: int) -> Tensor:
    """Compute right singular vectors (D, q) from a seeded start, without changing the caller's generators."""
    smaller, device = min(centred_ND.shape), centred_ND.device
    spanned = smaller <= SPANNED
    sampled = smaller if spanned else min(smaller, components + OVERSAMPLING)
    passes = SPANNED_ITERATIONS if spanned else POWER_ITERATIONS
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        if device.type == "cpu":
            # torch.manual_seed would also seed the CUDA generators, which fork_rng does not save here.
            torch.default_generator.manual_seed(seed)
        else:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        return torch.pca_lowrank(centred_ND, q=sampled, center=False, niter=passes)[2]
