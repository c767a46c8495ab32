"""The top eigenvector of a large symmetric matrix from a block Krylov basis, by products with few columns only.

Axes: N rows, Q columns of a block, J columns of the basis.
"""

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK, STEPS = 8, 128
"""Columns per block, and maximum number of blocks in the basis."""
LOOKS = frozenset((8, 12, 16, 24, 32, 48, 64, 96))
"""Numbers of blocks after which a CPU tests for convergence."""
ANGLE, ROUNDING = 1e-9, 1e-12
"""Convergence thresholds on the residual: angle to the eigenvector, and fraction of the eigenvalue."""
_GOLDEN = 0.6180339887498949


def krylov_vector(unit_NN: Tensor, find: Callable[[Tensor], Tensor], *, look: bool) -> Tensor:
    """Find the top eigenvector by the Rayleigh-Ritz method: the vector in the span of a basis with largest ``u' K u``.

    The basis spans ``K X, K^2 X, ...`` for a fixed block X; each new block is orthonormalised against the previous
    ones. Its size follows from the shape alone, so the host never reads from the device. With ``look``, the basis stops
    growing once the residual ``||K u - (u' K u) u||`` is small enough.

    Args:
        unit_NN: symmetric matrix, positive semi-definite up to rounding, of trace 1, or the zero matrix.
        find: returns the top eigenvector of a small matrix of trace 1 (or of the zero matrix).
        look: stop early; synchronises if the device is not a CPU.

    Returns:
        (N,) of norm 1, or 0 for the zero matrix.

    Example:
        >>> matrix = torch.diag(torch.tensor([0.1, 0.7, 0.2], dtype=torch.float64))
        >>> by_eigh = lambda small: torch.linalg.eigh(small)[1][:, -1]
        >>> krylov_vector(matrix, by_eigh, look=False).abs().round(decimals=9).tolist()
        [0.0, 1.0, 0.0]

    Source: Golub and Underwood 1977 (block Lanczos); Musco and Musco 2015 (convergence at any gap).
    """
    rows = len(unit_NN)
    steps = min(STEPS, 2 * -(-rows // BLOCK))
    basis_NJ = unit_NN.new_zeros(rows, BLOCK * steps)
    small_JJ = unit_NN.new_zeros(BLOCK * steps, BLOCK * steps)
    block_NQ = unit_NN @ _start(unit_NN)
    if unit_NN.is_meta:
        steps = 1  # Meta tensors only measure memory, and one block needs as much as all.
    for step in range(1, steps + 1):
        before, after = BLOCK * (step - 1), BLOCK * step
        basis_NJ[:, before:after] = _orthonormal(block_NQ, basis_NJ[:, :before])
        block_NQ = unit_NN @ basis_NJ[:, before:after]
        product_JQ = basis_NJ[:, :after].T @ block_NQ
        small_JJ[:after, before:after] = product_JQ
        small_JJ[before:after, :after] = product_JQ.T
        if look and step in LOOKS:
            vector_N, good_enough = _looked_at(unit_NN, basis_NJ[:, :after], small_JJ[:after, :after])
            if good_enough:
                return vector_N
    trace = small_JJ.diagonal().sum()
    small_JJ = torch.where(trace > 0, (small_JJ + small_JJ.T) / torch.where(trace > 0, 2 * trace, 1.0), 0.0)
    return _normalised(basis_NJ @ find(small_JJ))


def _looked_at(unit_NN: Tensor, basis_NJ: Tensor, small_JJ: Tensor) -> tuple[Tensor, bool]:
    """Return the Ritz vector of a basis, and whether its residual is small enough."""
    values_J, vectors_JJ = torch.linalg.eigh(small_JJ)
    vector_N = _normalised(basis_NJ @ vectors_JJ[:, -1])
    image_N = unit_NN @ vector_N
    value = vector_N.dot(image_N)
    allowed = ANGLE * (values_J[-1] - values_J[-2]) + ROUNDING * value
    return vector_N, bool(torch.linalg.vector_norm(image_N - value * vector_N) <= allowed)


def _start(unit_NN: Tensor) -> Tensor:
    """Build the fixed start block, equal on every device: fractional parts of multiples of squares, pattern-free."""
    rows_N = torch.arange(1, len(unit_NN) + 1, dtype=torch.float64, device=unit_NN.device)
    columns_Q = torch.arange(1, BLOCK + 1, dtype=torch.float64, device=unit_NN.device)
    return (rows_N.square()[:, None] * (_GOLDEN * columns_Q.sqrt())) % 1.0 - 0.5


def _orthonormal(block_NQ: Tensor, basis_NJ: Tensor) -> Tensor:
    """Orthonormalise the columns against a basis and each other, twice.

    A column that the second pass shrinks below half its length is mostly rounding and becomes 0, which adds nothing.
    """
    for least in (0.0, 0.5):
        block_NQ = block_NQ - basis_NJ @ (basis_NJ.T @ block_NQ)
        done_NQ = torch.zeros_like(block_NQ)
        for at in range(BLOCK):
            others_NQ, column_N = done_NQ[:, :at], block_NQ[:, at]
            for _ in range(2):
                column_N = column_N - others_NQ @ (others_NQ.T @ column_N)
            done_NQ[:, at] = _normalised(column_N, least)
        block_NQ = done_NQ
    return block_NQ


def _normalised(vector_N: Tensor, least: float = 0.0) -> Tensor:
    """Normalise to length 1; a vector whose norm is at most ``least`` becomes 0."""
    norm = torch.linalg.vector_norm(vector_N)
    return torch.where(norm > least, vector_N / torch.where(norm > least, norm, 1.0), 0.0)
