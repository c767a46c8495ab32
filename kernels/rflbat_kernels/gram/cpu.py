"""Passes over a wide matrix on a CPU: cache-sized blocks of columns, one worker per thread.

Axes: N rows (clients), D columns (parameters), B columns of one block.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
from torch import Tensor

CACHED_BYTES = 4 * 2**20
"""Float64 size of a block, which is converted, anchored and multiplied while it is in the cache."""
WORTH_A_WORKER = 2**27
"""Minimum number of operations per worker, equivalent to a few milliseconds."""
SELECTED = 8
"""Cost of extracting a column from a block and writing it back, relative to updating a column in place."""

Share = TypeVar("Share")


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Limit torch and BLAS to one thread, since small products do not gain from a second."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _libraries().limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


def in_shares(task: Callable[[int, int], Share], columns: int, operations: int) -> list[Share]:
    """Split the columns into one share per torch thread and process the shares in parallel.

    Two single-threaded workers are faster than products on two threads. The number of threads only changes the rounding
    of sums over the columns.

    Args:
        task: function of the first column of a share and the column after its last one.
        columns: number of columns, at least 1.
        operations: total number of operations; small tasks use fewer workers.

    Returns:
        the results of the shares, from left to right.

    Example:
        >>> sum(in_shares(lambda start, stop: stop - start, 10**6, 10**12))
        1000000
    """
    workers = max(1, min(torch.get_num_threads(), operations // WORTH_A_WORKER, columns))
    bounds = [columns * at // workers for at in range(workers + 1)]
    with _single_threaded():
        if workers == 1:
            return [task(0, columns)]
        with ThreadPoolExecutor(workers, "rflbat-columns") as pool:
            return list(pool.map(task, bounds[:-1], bounds[1:]))


def block_width(matrix_ND: Tensor, block_bytes: int) -> int:
    """Choose the number of columns of a block.

    A block fits in the cache, but has at least twice as many columns as rows; otherwise the (N, N) sums would dominate.

    Args:
        matrix_ND: the matrix.
        block_bytes: maximum float64 size of a block.

    Returns:
        the number of columns, at least 1.

    Example:
        >>> block_width(torch.ones(1024, 5), 2**25), block_width(torch.ones(4, 5), 2**25)
        (2048, 131072)
    """
    rows = max(1, len(matrix_ND))
    return max(1, min(block_bytes // (8 * rows), max(CACHED_BYTES // (8 * rows), 2 * rows)))


def blocks(
    matrix_ND: Tensor, rows_M: Tensor | None, width: int, start: int, stop: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Iterate over the blocks of columns of a share. All copies reuse one buffer: fresh pages cost more than a copy.

    Args:
        matrix_ND: any float type, any strides.
        rows_M: int64, rows to read. None: all rows.
        width: number of columns of a block, at least 1.
        start: first column of the share.
        stop: the column after its last one.

    Yields:
        the first column of the block, the block in its own dtype, and a float64 copy that may be modified.

    Example:
        >>> matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> [block.tolist() for _, _, block in blocks(matrix, torch.tensor([1]), 1, 0, 2)]
        [[[3.0]], [[4.0]]]
    """
    rows = len(matrix_ND) if rows_M is None else len(rows_M)
    room = rows * min(width, stop - start)
    chosen = None if rows_M is None else matrix_ND.new_empty(room)
    copy = torch.empty(room, dtype=torch.float64)
    for left in range(start, stop, width):
        given_MB = matrix_ND[:, left : min(left + width, stop)]
        shape = rows, given_MB.shape[1]
        if chosen is not None and rows_M is not None:
            given_MB = torch.index_select(given_MB, 0, rows_M, out=chosen[: rows * shape[1]].view(shape))
        yield left, given_MB, copy[: rows * shape[1]].view(shape).copy_(given_MB)


def anchored_products(
    matrix_ND: Tensor, row_N: Tensor | None, block_bytes: int, anchors: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the products of the rows relative to the column anchors r, c = d - r, in one read of the matrix.

    Args:
        matrix_ND: any float type, any strides, at least one row and one column.
        row_N: int64, row to read in place of each row. None: the rows themselves.
        block_bytes: maximum float64 size of a block.
        anchors: returns the anchors of a block.

    Returns:
        ``<c_i, c_j>`` (N, N), exactly symmetric; ``<c_i, r>`` (N,); ``<r, r>``; all float64.

    Example:
        >>> products = anchored_products(torch.tensor([[1.0, 2.0], [3.0, 2.0]]), None, 2**20, lambda block: block[0])
        >>> [part.tolist() for part in products]
        [[[0.0, 0.0], [0.0, 4.0]], [0.0, 2.0], 5.0]
    """
    rows, columns = matrix_ND.shape

    @torch.no_grad()
    def share(start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        sum_NN, product_NN = np.zeros((rows, rows)), np.empty((rows, rows))
        along_N, square = np.zeros(rows), np.zeros(())
        width = block_width(matrix_ND, block_bytes)
        for _, given_NB, block_NB in blocks(matrix_ND.detach(), row_N, width, start, stop):
            # Not by DLPack, which returns read-only arrays with some versions of torch.
            anchor_B, block = np.asarray(anchors(given_NB).to(torch.float64)), np.asarray(block_NB)
            # With many rows, few columns have entries of one sign only; an anchor of 0 needs no subtraction.
            away_S: Any = np.flatnonzero(anchor_B)
            away_S = away_S if SELECTED * len(away_S) <= len(anchor_B) else slice(None)
            anchor_S = anchor_B[away_S]
            with np.errstate(all="ignore"):
                block[:, away_S] -= anchor_S
                along_N += block[:, away_S] @ anchor_S
                square += anchor_S @ anchor_S
                # Numpy recognises A A' and computes only half of the products.
                sum_NN += np.matmul(block, block.T, out=product_NN)
        return torch.from_numpy(sum_NN), torch.from_numpy(along_N), torch.from_numpy(square)

    first, *others = in_shares(share, columns, rows * rows * columns)
    for other in others:
        for total, part in zip(first, other, strict=True):
            total.add_(part)
    return first


def weighted_columns(weights_N: Tensor, matrix_ND: Tensor, block_bytes: int) -> Tensor:
    """Compute ``sum_i w_i d_i`` in float64 in one read of the rows of nonzero weight.

    Args:
        weights_N: float64.
        matrix_ND: any float type, any strides.
        block_bytes: maximum float64 size of a block.

    Returns:
        (D,) in the dtype of the matrix.

    Example:
        >>> weighted_columns(torch.tensor([0.5, 0.0]).double(), torch.tensor([[2.0, 4.0], [torch.nan, 1.0]]), 64)
        tensor([1., 2.])
    """
    rows, columns = matrix_ND.shape
    sum_D = torch.zeros(columns, dtype=matrix_ND.dtype)
    used_M = torch.from_numpy(np.flatnonzero(np.from_dlpack(weights_N.detach())))
    if not len(used_M) or not columns:
        return sum_D
    weights_M, rows_M = weights_N[used_M], None if len(used_M) == rows else used_M

    @torch.no_grad()
    def share(start: int, stop: int) -> None:
        width = max(1, min(block_bytes, CACHED_BYTES) // (8 * len(used_M)))
        sum_B = torch.empty(min(width, stop - start), dtype=torch.float64)
        for left, _, block_MB in blocks(matrix_ND, rows_M, width, start, stop):
            wide = block_MB.shape[1]
            sum_D[left : left + wide] = torch.mv(block_MB.T, weights_M, out=sum_B[:wide])

    in_shares(share, columns, 4 * len(used_M) * columns)
    return sum_D


def distance_squares(weights_N: Tensor, matrix_ND: Tensor, rows_M: Tensor | None, block_bytes: int) -> Tensor:
    """Compute ``||d_i - sum_j w_j d_j||^2`` from explicit differences, block by block, in one read of the matrix.

    Args:
        weights_N: float64.
        matrix_ND: any float type, any strides, at least one row and one column.
        rows_M: int64, valid rows. None: all rows.
        block_bytes: maximum float64 size of a block.

    Returns:
        (N,) float64; 0 for invalid rows.

    Example:
        >>> distance_squares(torch.tensor([0.5, 0.5]).double(), torch.tensor([[2.0], [4.0]]), None, 64).tolist()
        [1.0, 1.0]
    """
    rows, columns = matrix_ND.shape
    weights_M = weights_N if rows_M is None else weights_N[rows_M]
    width = max(1, min(block_bytes, CACHED_BYTES) // (8 * rows))

    @torch.no_grad()
    def share(start: int, stop: int) -> Tensor:
        total_M = torch.zeros_like(weights_M)
        for _, _, block_MB in blocks(matrix_ND, rows_M, width, start, stop):
            block_MB.sub_(weights_M @ block_MB)
            total_M += torch.linalg.vector_norm(block_MB, dim=1).square_()
        return total_M

    total_M = torch.stack(in_shares(share, columns, 8 * rows * columns)).sum(0)
    return total_M if rows_M is None else torch.zeros_like(weights_N).index_copy(0, rows_M, total_M)


def column_ends(block_NB: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the smallest and largest entry of each column; NaN if the column holds a NaN.

    Numpy reduces columns twice as fast as torch, but does not support bfloat16.

    Args:
        block_NB: any float type, at least one row.

    Returns:
        (B,) each.

    Example:
        >>> [ends.tolist() for ends in column_ends(torch.tensor([[1.0, -3.0], [2.0, 4.0]]))]
        [[1.0, -3.0], [2.0, 4.0]]
    """
    if block_NB.dtype not in (torch.float32, torch.float64):
        return block_NB.amin(0), block_NB.amax(0)
    block = np.from_dlpack(block_NB.detach())
    return torch.from_numpy(np.minimum.reduce(block, 0)), torch.from_numpy(np.maximum.reduce(block, 0))


def surely_finite(matrix_ND: Tensor) -> Tensor:
    """Mark rows whose sum is finite, and which therefore hold neither NaN nor Inf, at memory bandwidth.

    Args:
        matrix_ND: float32, any strides, at least one column.

    Returns:
        (N,) bool; False also if the sum of finite numbers overflows.

    Example:
        >>> surely_finite(torch.tensor([[1.0, 2.0], [torch.inf, -torch.inf], [3e38, 3e38]])).tolist()
        [True, False, False]
    """
    rows, columns = matrix_ND.shape
    width = max(1, CACHED_BYTES // max(1, rows))
    ones_B = torch.ones(min(width, columns))

    @torch.no_grad()
    def share(start: int, stop: int) -> Tensor:
        parts = (matrix_ND[:, left : min(left + width, stop)] for left in range(start, stop, width))
        return torch.stack([part_NB @ ones_B[: part_NB.shape[1]] for part_NB in parts]).isfinite().all(0)

    return torch.stack(in_shares(share, columns, 2 * rows * columns)).all(0)


def extremes(matrix_ND: Tensor) -> Tensor:
    """Compute the smallest and largest entry of each row in one read; NaN if the row holds a NaN.

    Args:
        matrix_ND: any float type, any strides, at least one column.

    Returns:
        (2, N).

    Example:
        >>> extremes(torch.tensor([[1.0, 3.0, 2.0], [torch.nan, 0.0, 0.0]])).tolist()
        [[1.0, nan], [3.0, nan]]
    """
    rows, columns = matrix_ND.shape
    width = max(1, CACHED_BYTES // (8 * max(1, rows)))

    @torch.no_grad()
    def share(start: int, stop: int) -> Tensor:
        parts = [matrix_ND[:, left : min(left + width, stop)] for left in range(start, stop, width)]
        found = [torch.stack([part_NB.amin(1), part_NB.amax(1)]) for part_NB in parts]
        lowest_N, highest_N = torch.stack(found, 2).unbind(0)
        return torch.stack([lowest_N.amin(1), highest_N.amax(1)])

    lowest_N, highest_N = torch.stack(in_shares(share, columns, 2 * rows * columns), 2).unbind(0)
    return torch.stack([lowest_N.amin(1), highest_N.amax(1)])
