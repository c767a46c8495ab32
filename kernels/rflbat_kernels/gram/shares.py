"""Shares and cache-sized blocks of the columns of a wide matrix on a CPU, one single-threaded worker per share.

Axes: N rows (clients), D columns (parameters), M rows that are read, B columns of one block.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
from torch import Tensor

CACHED_BYTES = 4 * 2**20
"""Float64 size of a block, which is converted, anchored and multiplied while it is in the cache."""
WORTH_A_WORKER = 2**27
"""Minimum number of operations per worker, equivalent to a few milliseconds."""

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
