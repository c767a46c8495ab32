"""Matrices whose columns are sharded over several processes, and the reductions over columns that complete them.

Inside a ``sharded`` block every process calls the same operations in the same order, each on its own columns.
Column-wise operations need no communication. ``gram``, ``finite_rows``, ``distances_to_sum`` and ``minority_counts``
reduce over columns, so they all-reduce the partial results. Outside the block these functions are no-ops.
Axes: N rows (clients), D columns (parameters), S chosen columns.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])
Reduce = Callable[[Tensor, str], Tensor]
"""``reduce(tensor, how)`` returns in every process the "sum", "min" or "max" of the tensors of all processes."""


class Shard(NamedTuple):
    """The columns of the whole matrix that this process holds."""

    first: int
    """Position of the first one."""
    own: int
    """Number of columns that this process holds; may be 0."""
    total: int
    """Number of columns D of the whole matrix."""
    reduce: Reduce
    """All-reduce over the processes."""


_open: list[Shard] = []
"""The open ``sharded`` blocks. As with ``using``, they apply to all threads of the process."""


@contextmanager
def sharded(columns: Shard) -> Iterator[None]:
    """Declare that all wide matrices inside a ``with`` block are this process's shard of the columns.

    Args:
        columns: shard of this process; every column of the whole matrix must belong to exactly one process.

    Example:
        >>> from rflbat_kernels import gram
        >>> def reduce(part, how):
        ...     return part + 100.0
        >>> with sharded(Shard(0, 1, 2, reduce)):
        ...     gram(torch.tensor([[3.0]])).raw_NN.item()
        109.0
    """
    _open.append(columns)
    try:
        yield
    finally:
        _open.pop()


def all_reduce(part: Tensor, how: str = "sum") -> Tensor:
    """All-reduce a partial result over the processes that hold the columns.

    Args:
        part: result of this process's columns; for a bool, "min" is the logical AND.
        how: "sum", "min" or "max".

    Returns:
        the reduced tensor, the same in every process; ``part`` itself outside a ``sharded`` block.

    Example:
        >>> all_reduce(torch.tensor([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """
    if not _open:
        return part
    if part.dtype == torch.bool:
        return _open[-1].reduce(part.to(torch.uint8), how).to(torch.bool)
    return _open[-1].reduce(part, how)


def all_columns(own: int) -> int:
    """Return the number of columns of the whole matrix.

    Args:
        own: number of columns of this process.

    Returns:
        D.

    Example:
        >>> with sharded(Shard(4, 4, 10, lambda part, how: part)):
        ...     all_columns(4)
        10
    """
    return _open[-1].total if _open else own


def own_columns(whole_D: Tensor) -> Tensor:
    """Slice a replicated vector to the columns of this process.

    Args:
        whole_D: one number for each column of the whole matrix.

    Returns:
        a view of the entries of this process's columns.

    Example:
        >>> with sharded(Shard(1, 2, 4, lambda part, how: part)):
        ...     own_columns(torch.arange(4)).tolist()
        [1, 2]
    """
    return whole_D[_open[-1].first : _open[-1].first + _open[-1].own] if _open else whole_D


def select_columns(matrix_ND: Tensor, index_S: Tensor) -> Tensor:
    """Gather columns by their positions in the whole matrix.

    Args:
        matrix_ND: columns of this process.
        index_S: int64 positions, 0 to D - 1.

    Returns:
        (N, S), the same in every process.

    Example:
        >>> select_columns(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([2, 0])).tolist()
        [[3.0, 1.0]]
    """
    if not _open:
        return matrix_ND.index_select(1, index_S)
    if not matrix_ND.shape[1]:
        return all_reduce(matrix_ND.new_zeros(len(matrix_ND), len(index_S)))
    at_S = index_S - _open[-1].first
    here_S = (at_S >= 0) & (at_S < matrix_ND.shape[1])
    found_NS = matrix_ND.index_select(1, at_S.clamp(0, matrix_ND.shape[1] - 1))
    return all_reduce(torch.where(here_S, found_NS, 0))


def reduced_over_shards(function: Function, finish: Callable[[Any], Any]) -> Function:
    """Extend an operation that reduces over columns to sharded columns.

    Args:
        function: the operation on the columns of one process.
        finish: combines the partial results of all processes; called only inside a ``sharded`` block.

    Returns:
        a function of the same type, name and docstring.

    Example:
        >>> reduced_over_shards(torch.sum, all_reduce)(torch.tensor([1.0, 2.0])).item()
        3.0
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        return finish(result) if _open else result

    return cast(Function, run)
