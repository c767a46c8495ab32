"""A matrix whose columns lie in several processes, some in each: what is summed over columns is finished here.

Inside `sharded` every process calls the same operations in the same order, each on its own columns. All that
works column by column does so alone; `gram`, `finite_rows`, `distances_to_sum` and `minority_counts`, which sum over
columns, add up what the processes found. Outside of it nothing here does anything.
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
"""``reduce(tensor, how)`` gives every process the "sum", "min" or "max" of all processes' tensors."""


class Shard(NamedTuple):
    """Which columns of the whole matrix this process has."""

    first: int
    """Position of its first one."""
    own: int
    """How many it has; 0 is allowed."""
    total: int
    """Shard of the whole matrix D."""
    reduce: Reduce
    """What brings the processes' results together."""


_open: list[Shard] = []
"""The blocks of `sharded` that are open, as `using` keeps its own: for all threads of the process."""


@contextmanager
def sharded(columns: Shard) -> Iterator[None]:
    """Say that all wide matrices inside a `with` block are this process' columns of matrices that lie in several.

    Args:
        columns: those of this process; the processes' columns together are all of them, each once.

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
    """Finish a reduction over columns: bring together what the processes found in their own.

    Args:
        part: of this process' columns; a bool for "min", which is then "all of them".
        how: "sum", "min" or "max".

    Returns:
        the same in every process; the part itself where the matrix lies in one.

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
    """Give the number of columns of the whole matrix.

    Args:
        own: columns of this process.

    Returns:
        D.

    Example:
        >>> with sharded(Shard(4, 4, 10, lambda part, how: part)):
        ...     all_columns(4)
        10
    """
    return _open[-1].total if _open else own


def own_columns(whole_D: Tensor) -> Tensor:
    """Take this process' columns of a vector that every process has whole.

    Args:
        whole_D: one number for each column of the whole matrix.

    Returns:
        a view.

    Example:
        >>> with sharded(Shard(1, 2, 4, lambda part, how: part)):
        ...     own_columns(torch.arange(4)).tolist()
        [1, 2]
    """
    return whole_D[_open[-1].first : _open[-1].first + _open[-1].own] if _open else whole_D


def select_columns(matrix_ND: Tensor, index_S: Tensor) -> Tensor:
    """Take columns by their positions in the whole matrix.

    Args:
        matrix_ND: this process' columns.
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
    """Make an operation that sums over columns ready for columns in several processes.

    Args:
        function: the operation on the columns of one process.
        finish: brings its results together.

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
