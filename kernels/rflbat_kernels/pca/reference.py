"""Principal component scores, from a Gram matrix or from the matrix itself.

Axes: N rows (clients), D columns (parameters), H components.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from rflbat_kernels.gram.reference import check_mask, column_anchors, double_centre, stand_ins
from rflbat_kernels.median.reference import masked_median
from rflbat_kernels.pca.krylov import krylov_vector

SOLVERS = ("auto", "eigh", "squaring", "krylov")
LARGE = 1024
"""Rows beyond which "auto" takes no solver of N^3 operations."""
SQUARINGS = 24
"""K to the power 2^24 tells two eigenvalues apart down to a relative gap of 1e-6."""
OVERSAMPLING, POWER_ITERATIONS = 10, 32
"""Sampled directions beyond the wanted ones, and passes over the matrix that sharpen them."""
SPANNED, SPANNED_ITERATIONS = 128, 2
"""Up to so many rows (or columns), all directions are sampled: cheaper than the passes, and exact at any spectrum."""
_EPS = torch.finfo(torch.float64).eps
_SAME = 64 * _EPS
"""Squared distances below this share of the squared distances from the mean are rounding."""


def solver_for(device: torch.device, rows: int) -> str:
    """Name the solver that "auto" means: up to 1,024 rows the exact one, or the one that does not wait.

    Args:
        device: where the Gram matrix lies.
        rows: N.

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

    One component at a time. With `K = H G H` (H centres over the valid rows; done here, whatever the origin of G) and
    its top eigenvector u, the axis is `v = sum u_i d_i / sigma` with `sigma^2 = u' G u`, the scores are
    `s = G u / sigma`, and `G <- G - s s'` takes the axis out. Scores and remainder are right to rounding of each row's
    OWN length, so one row of 1e12 does not blur the plane of the others. A row whose rounding exceeds the typical
    length that is left (the median) can no longer be placed: it leaves the computation and scores the mean.
    Rows nearer to each other than their rounding share one score: equal rows are equal points.

    Args:
        gram_NN: inner products about any origin; best is `gram(x).anchored_NN`.
        valid_N: bool, rows that count. None: all.
        components: number of columns wanted, at least 1; the missing ones are 0 where it exceeds the rank.
        solver: how u is found: "eigh" (torch.linalg.eigh: on CUDA it waits, reading its status back), "squaring"
            (matrix products alone, no wait; the distances between the scores are right to 3e-8 of the largest at any
            gap between eigenvalues), "krylov" (products with few columns alone, no wait; for many rows), or "auto":
            krylov beyond 1,024 rows, else eigh on the CPU and squaring elsewhere.

    Returns:
        (N, components) float64, centred. The largest entry of a column by magnitude (the first of nearly equal ones) is
        positive; invalid rows score 0.

    Raises:
        ValueError: wrong shape, `components` below 1, unknown solver.

    Example:
        >>> pca(torch.tensor([[4.0, -4.0], [-4.0, 4.0]])).tolist()
        [[2.0, 0.0], [-2.0, 0.0]]

    Source: Gower 1966 (principal coordinates).
    """
    rows = len(gram_NN)
    if gram_NN.shape != (rows, rows):
        raise ValueError(f"the Gram matrix has shape {tuple(gram_NN.shape)}, allowed: (N, N)")
    check_mask(valid_N, rows)
    _check_components(components)
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}, allowed: {', '.join(SOLVERS)}")
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
    """Give what finds the top eigenvector of a matrix of trace 1."""
    if solver == "krylov":
        on_host = device.type == "cpu"
        return partial(krylov_vector, find=_eigh if on_host else _squaring, look=on_host)
    return _eigh if solver == "eigh" else _squaring


def _axis_scores(left_NN: Tensor, placed_N: Tensor, squares_N: Tensor, find: Callable[[Tensor], Tensor]) -> Tensor:
    """Scores `G u / sigma` on the first axis of the placed rows, from the origin of G; 0 if nothing is left."""
    centred_NN = double_centre(left_NN, placed_N)
    trace = centred_NN.diagonal().sum()
    # What centring leaves of equal rows is rounding: it must not be blown up to a plane.
    trace = torch.where(trace > len(left_NN) * _EPS * torch.where(placed_N, squares_N, 0.0).sum(), trace, 0.0)
    vector_N = torch.where(placed_N, find(_over(centred_NN, trace)), 0.0)
    # Exactly orthogonal to the origin, or a far origin would leak into the scores.
    vector_N = torch.where(placed_N, vector_N - vector_N.sum() / placed_N.sum().clamp_min(1), 0.0)
    image_N = left_NN @ vector_N
    return torch.where(trace > 0, _over(image_N, vector_N.dot(image_N).clamp_min(0.0).sqrt()), 0.0)


def _centre_scores(score_N: Tensor, placed_N: Tensor, valid_N: Tensor) -> Tensor:
    """Put the rows that cannot be placed on the mean of the others, and the mean of all on 0."""
    score_N = torch.where(placed_N, score_N, torch.where(placed_N, score_N, 0.0).sum() / placed_N.sum().clamp_min(1))
    mean = torch.where(valid_N, score_N, 0.0).sum() / valid_N.sum().clamp_min(1)
    return torch.where(valid_N, score_N - mean, 0.0)


def _check_components(components: int) -> None:
    if components < 1:
        raise ValueError(f"components is {components}, allowed: at least 1")


def _first_equal(gram_NN: Tensor) -> Tensor:
    """Position of the first row that equals each row up to rounding."""
    squares_N = gram_NN.diagonal()
    size_NN = squares_N[:, None] + squares_N[None, :]
    return (size_NN - 2 * gram_NN <= _SAME * size_NN).to(torch.uint8).argmax(1)


def _eigh(unit_NN: Tensor) -> Tensor:
    """Top eigenvector of a matrix of trace 1, or of 0."""
    vectors_NN: Tensor = torch.linalg.eigh(unit_NN)[1]
    return vectors_NN[:, -1]


def _squaring(unit_NN: Tensor) -> Tensor:
    """Top eigenvector by repeated squaring, of a matrix of trace 1, or of 0."""
    power_NN = unit_NN
    for _ in range(SQUARINGS):
        power_NN = power_NN @ power_NN
        power_NN = _over(power_NN + power_NN.T, 2 * power_NN.diagonal().sum())
    column = power_NN.diagonal().argmax()
    vector_N = _over(power_NN.index_select(1, column[None])[:, 0])
    # One step with the matrix itself removes the rounding that the squarings piled up.
    return _over(unit_NN @ vector_N)


def _over(tensor: Tensor, scale: Tensor | None = None) -> Tensor:
    """Divide by a scale (None: the norm), or give 0 where it is not positive."""
    scale = torch.linalg.vector_norm(tensor) if scale is None else scale
    return torch.where(scale > 0, tensor / torch.where(scale > 0, scale, 1.0), 0.0)


def _finish(scores_NH: Tensor, valid_N: Tensor | None, components: int) -> Tensor:
    """Fix the signs, blank the invalid rows, append the missing columns."""
    if valid_N is not None:
        scores_NH = torch.where(valid_N[:, None], scores_NH, 0.0)
    size_NH = scores_NH.abs()
    # Nearly equal magnitudes count as equal, or rounding would choose the sign (two rows are always +a and -a).
    peak_H = (size_NH >= (1 - 1e-6) * size_NH.amax(0)).to(torch.uint8).argmax(0)
    # + 0 makes 0 of -0.
    scores_NH = scores_NH * scores_NH.gather(0, peak_H[None]).sign() + 0.0
    return torch.nn.functional.pad(scores_NH, (0, components - scores_NH.shape[1]))


@torch.no_grad()
def pca_lowrank(matrix_ND: Tensor, valid_N: Tensor | None = None, *, components: int = 2, seed: int = 0) -> Tensor:
    """Compute the scores of the rows on their first principal components by a randomised SVD of the matrix.

    The other back end of `pca`: `torch.pca_lowrank` finds the axes V of the centred matrix, and the scores are
    `(d_i - m) V`. It works in float64 on a copy of the WHOLE matrix and, on CUDA, waits for the device (QR and SVD
    read their status back). Up to min(N, D) = 128 it is exact. Beyond, q = components + 10 directions are sampled, and
    the angle to the true axes shrinks as `(sigma_{q+1} / sigma_components) ** 65`: exact where the leading components
    stand out, not for pure noise.

    Args:
        matrix_ND: any float type, any strides. No gradient is recorded.
        valid_N: bool, rows that count; the others may hold NaN or Inf and are replaced by the mean of the valid ones,
            which moves neither the mean nor the axes. None: all.
        components: number of columns wanted, at least 1; the missing ones are 0 where it exceeds N or D.
        seed: of the random start; the caller's generators are left as they were.

    Returns:
        (N, components) float64, signs as in `pca`; invalid rows score 0.

    Raises:
        ValueError: wrong shape or type, `components` below 1.

    Example:
        >>> pca_lowrank(torch.tensor([[0.0, 2.0], [0.0, -2.0]])).round(decimals=9).abs().tolist()
        [[2.0, 0.0], [2.0, 0.0]]

    Source: Halko, Martinsson and Tropp 2011.
    """
    if matrix_ND.ndim != 2 or not matrix_ND.is_floating_point():
        raise ValueError(f"the matrix is {matrix_ND.dtype} of shape {tuple(matrix_ND.shape)}, allowed: float (N, D)")
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
    """Right singular vectors (D, q) from a start that is seeded without touching the caller's generators."""
    smaller, device = min(centred_ND.shape), centred_ND.device
    spanned = smaller <= SPANNED
    sampled = smaller if spanned else min(smaller, components + OVERSAMPLING)
    passes = SPANNED_ITERATIONS if spanned else POWER_ITERATIONS
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        if device.type == "cpu":
            # torch.manual_seed would seed CUDA's generators too, which are not saved here.
            torch.default_generator.manual_seed(seed)
        else:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        return torch.pca_lowrank(centred_ND, q=sampled, center=False, niter=passes)[2]
