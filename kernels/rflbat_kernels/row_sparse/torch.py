"""Updates that each change few rows of a table (an embedding): unchanged rows are neither stored nor computed with.

A row of the table is a word. Common words are stored for every update, own words only for the updates that change them.
Axes: N updates (clients), D parameters, W words, E columns of the table, M common words, R own words of an update
(padded), Q = D - (W - M - R) E stored numbers, G words of a group, C updates that share each of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from rflbat_kernels.gram.base import Gram, check_mask, double_centre
from rflbat_kernels.operations import gram, weighted_sum

_BLOCK_BYTES = 32 * 2**20
_CACHED_BYTES = 2**20
"""Size of the float64 copy of a block of rows on a CPU, small enough to stay in the cache."""


class SharedRows(NamedTuple):
    """A group of words that each are own words of the same number of updates; every own word is in one group."""

    word_G: Tensor
    """int64, the words."""
    client_GC: Tensor
    """int64, the updates that store each word."""
    place_GC: Tensor
    """int64, the index of the word among the own rows of that update."""


@dataclass(frozen=True)
class TouchedRows:
    """Which rows of the table are stored.

    Args:
        first: position of the table among the D parameters.
        words: number of rows W of the table.
        width: number of columns E of the table.
        common_M: int64, words stored for every update.
        own_NR: int64, own words of each update, none of them common; padded with W.
        shared: the own words, grouped by the number of updates that store them.
    """

    first: int
    words: int
    width: int
    common_M: Tensor
    own_NR: Tensor
    shared: tuple[SharedRows, ...]

    @property
    def rows(self) -> int:
        """Number of rows M + R that are stored for each update."""
        return len(self.common_M) + self.own_NR.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, so that they can be copied to a device together.

        Returns:
            name -> tensor.
        """
        groups = {f"{number}.{name}": each for number, group in enumerate(self.shared) for name, each in _named(group)}
        return {"common_M": self.common_M, "own_NR": self.own_NR, **groups}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> "TouchedRows":
        """Return the same rows with their tensors replaced by copies.

        Args:
            tensors: name -> tensor, with at least the names that ``tensors()`` returns.

        Returns:
            the same rows, on the device of those tensors.
        """
        shared = tuple(
            SharedRows(**{name: tensors[f"{number}.{name}"] for name, _ in _named(group)})
            for number, group in enumerate(self.shared)
        )
        return replace(self, common_M=tensors["common_M"], own_NR=tensors["own_NR"], shared=shared)


def _named(group: SharedRows) -> Iterable[tuple[str, Tensor]]:
    return group._asdict().items()


@dataclass(frozen=True)
class RowSparse:
    """Updates whose table is nonzero only in the stored rows.

    Args:
        matrix_NQ: any float type: the D parameters in order, where the table is reduced to the common rows followed by
            the own rows. Padded own rows may hold any finite number.
        touched: the stored rows.

    Example:
        >>> group = SharedRows(torch.tensor([2]), torch.tensor([[0]]), torch.tensor([[0]]))
        >>> table = TouchedRows(1, 3, 1, torch.tensor([0]), torch.tensor([[2], [3]]), (group,))
        >>> RowSparse(torch.tensor([[9.0, 1.0, 5.0, 7.0], [9.0, 2.0, 0.0, 7.0]]), table).dense().tolist()
        [[9.0, 1.0, 0.0, 5.0, 7.0], [9.0, 2.0, 0.0, 0.0, 7.0]]
    """

    matrix_NQ: Tensor
    touched: TouchedRows

    @property
    def columns(self) -> int:
        """Number of parameters D."""
        return self.matrix_NQ.shape[1] + (self.touched.words - self.touched.rows) * self.touched.width

    def stored_for_all(self) -> tuple[Tensor, Tensor]:
        """Return views of the columns that mean the same in every update: up to the common rows, and after the table.

        Returns:
            ``(N, first + M E)`` and ``(N, the rest)``; either may have no columns.
        """
        table = self.touched
        own = table.first + len(table.common_M) * table.width
        return self.matrix_NQ[:, :own], self.matrix_NQ[:, table.first + table.rows * table.width :]

    def own_rows(self) -> Tensor:
        """Return the own rows of each update, as a view.

        Returns:
            ``(N, R, E)``.
        """
        table = self.touched
        start, stop = (table.first + rows * table.width for rows in (len(table.common_M), table.rows))
        return self.matrix_NQ[:, start:stop].view(len(self.matrix_NQ), table.own_NR.shape[1], table.width)

    def dense(self) -> Tensor:
        """Return the updates as a dense matrix.

        Returns:
            ``(N, D)``.
        """
        matrix_ND = self.matrix_NQ.new_zeros(len(self.matrix_NQ), self.columns)
        table_NWE = self._place_common(matrix_ND)
        own_NRE = self.own_rows()
        for word_G, client_GC, place_GC in self.touched.shared:
            table_NWE[client_GC, word_G[:, None]] = own_NRE[client_GC, place_GC]
        return matrix_ND

    def _place_common(self, matrix_ND: Tensor) -> Tensor:
        """Copy the columns stored for all updates to their places, and return the view of the table."""
        table, (before, after) = self.touched, self.stored_for_all()
        stop = table.first + table.words * table.width
        matrix_ND[:, : table.first] = before[:, : table.first]
        matrix_ND[:, stop:] = after
        table_NWE = matrix_ND[:, table.first : stop].view(len(matrix_ND), table.words, table.width)
        common_NME = before[:, table.first :].view(len(matrix_ND), len(table.common_M), table.width)
        return table_NWE.index_copy_(1, table.common_M, common_NME)


def _in_blocks(updates: RowSparse) -> Iterator[tuple[SharedRows, Tensor]]:
    """Yield the own rows in blocks of words, in float64 ``(G, C, E)``."""
    own_NRE = updates.own_rows()
    bytes_at_once = _CACHED_BYTES if own_NRE.device.type == "cpu" else _BLOCK_BYTES
    for group in updates.touched.shared:
        words = max(1, bytes_at_once // (8 * group.client_GC.shape[1] * updates.touched.width))
        for block in zip(*(torch.split(each, words) for each in group), strict=True):
            some = SharedRows(*block)
            yield some, own_NRE[some.client_GC, some.place_GC].to(torch.float64)


@torch.no_grad()
def row_sparse_gram(updates: RowSparse, valid_N: Tensor | None = None) -> Gram:
    """Compute the inner products of all pairs of updates, equal to ``gram`` of the dense matrix.

    The columns stored for all updates go through ``gram``. An own word contributes ``<d_iw, d_jw>`` to the pairs of
    updates that both store it. Its anchor is 0, as in the dense matrix unless every valid update stores the word.

    Args:
        updates: row-sparse updates. No gradient is recorded.
        valid_N: bool, mask of valid updates; the others may hold NaN or Inf. None: all are valid.

    Returns:
        the three matrices, (N, N) float64; rows and columns of invalid updates are 0.

    Raises:
        ValueError: wrong shape or type of the mask.

    Example:
        >>> group = SharedRows(torch.tensor([1]), torch.tensor([[0, 1]]), torch.tensor([[0, 0]]))
        >>> table = TouchedRows(0, 9, 1, torch.tensor([4]), torch.tensor([[1], [1]]), (group,))
        >>> row_sparse_gram(RowSparse(torch.tensor([[1.0, 2.0], [3.0, 2.0]]), table)).raw_NN.tolist()
        [[5.0, 7.0], [7.0, 13.0]]
    """
    clients, device = len(updates.matrix_NQ), updates.matrix_NQ.device
    check_mask(valid_N, clients)
    sum_NN = torch.zeros(clients, clients, dtype=torch.float64, device=device)
    for (_, client_GC, _), rows_GCE in _in_blocks(updates):
        if valid_N is not None:
            rows_GCE = torch.where(valid_N[client_GC][:, :, None], rows_GCE, 0.0)
        pair_GCC = client_GC[:, :, None] * clients + client_GC[:, None, :]
        sum_NN.view(-1).index_add_(0, pair_GCC.flatten(), torch.bmm(rows_GCE, rows_GCE.mT).flatten())
    # The products (i, j) and (j, i) may differ by rounding; their mean is exactly symmetric.
    raw_NN = anchored_NN = (sum_NN + sum_NN.T) / 2
    for columns in updates.stored_for_all():
        if columns.shape[1]:
            found = gram(columns, valid_N)
            raw_NN, anchored_NN = raw_NN + found.raw_NN, anchored_NN + found.anchored_NN
    return Gram(double_centre(anchored_NN, valid_N), raw_NN, anchored_NN)


@torch.no_grad()
def row_sparse_weighted_sum(weights_N: Tensor, updates: RowSparse) -> Tensor:
    """Compute ``sum_i w_i d_i`` in float64, equal to ``weighted_sum`` of the dense matrix.

    An update of weight 0 is skipped, even if it holds NaN or Inf.

    Args:
        weights_N: finite, any float type.
        updates: row-sparse updates. No gradient is recorded.

    Returns:
        (D,) in the dtype of the updates.

    Raises:
        ValueError: wrong shape of the weights.

    Example:
        >>> group = SharedRows(torch.tensor([1]), torch.tensor([[0, 1]]), torch.tensor([[0, 0]]))
        >>> table = TouchedRows(0, 3, 1, torch.tensor([2]), torch.tensor([[1], [1]]), (group,))
        >>> updates = RowSparse(torch.tensor([[2.0, 4.0], [torch.inf, torch.nan]]), table)
        >>> row_sparse_weighted_sum(torch.tensor([0.5, 0.0]), updates).tolist()
        [0.0, 2.0, 1.0]
    """
    matrix_NQ, table = updates.matrix_NQ, updates.touched
    if weights_N.shape != (len(matrix_NQ),):
        raise ValueError(f"weights have shape {tuple(weights_N.shape)}; allowed: ({len(matrix_NQ)},)")
    weights_N = weights_N.to(torch.float64)
    before, after = (weighted_sum(weights_N, columns) for columns in updates.stored_for_all())
    sum_D = matrix_NQ.new_zeros(updates.columns)
    stop = table.first + table.words * table.width
    sum_D[: table.first], sum_D[stop:] = before[: table.first], after
    table_WE = sum_D[table.first : stop].view(-1, table.width)
    table_WE.index_copy_(0, table.common_M, before[table.first :].view(len(table.common_M), table.width))
    for (word_G, client_GC, _), rows_GCE in _in_blocks(updates):
        weights_GC = weights_N[client_GC]
        rows_GCE.masked_fill_((weights_GC == 0)[:, :, None], 0.0)
        found_GE = (rows_GCE * weights_GC[:, :, None]).sum(1)
        table_WE.index_copy_(0, word_G, found_GE.to(matrix_NQ.dtype))
    return sum_D
