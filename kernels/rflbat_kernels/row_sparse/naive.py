"""Definitions of the operations of ``row_sparse``: write the updates as dense vectors and apply the dense operation.

Axes: N updates (clients), D parameters.
"""

import torch
from torch import Tensor

from rflbat_kernels.gram import naive
from rflbat_kernels.gram.base import Gram
from rflbat_kernels.row_sparse.torch import RowSparse


def dense(updates: RowSparse) -> Tensor:
    """Return the updates as a dense matrix (N, D): stored rows of the table at the place of their word, 0 elsewhere."""
    table = updates.touched
    behind = table.first + table.words * table.width
    dense_ND = torch.zeros(len(updates.matrix_NQ), updates.columns, dtype=updates.matrix_NQ.dtype)
    for dense_D, stored_Q, own_R in zip(dense_ND, updates.matrix_NQ, table.own_NR, strict=True):
        dense_D[: table.first] = stored_Q[: table.first]
        dense_D[behind:] = stored_Q[table.first + table.rows * table.width :]
        for place, word in enumerate(map(int, (*table.common_M, *own_R))):
            if word < table.words:
                to, start = (table.first + row * table.width for row in (word, place))
                dense_D[to : to + table.width] = stored_Q[start : start + table.width]
    return dense_ND


def row_sparse_gram(updates: RowSparse, valid_N: Tensor | None = None) -> Gram:
    """Compute ``gram`` of the dense matrix.

    ``anchored_NN`` is about another origin than that of ``row_sparse_gram`` if every valid update has an own word, but
    gives the same distances.
    """
    return naive.gram(dense(updates), valid_N)


def row_sparse_weighted_sum(weights_N: Tensor, updates: RowSparse) -> Tensor:
    """Compute ``sum_i w_i d_i`` of the dense matrix."""
    return naive.weighted_sum(weights_N, dense(updates))
