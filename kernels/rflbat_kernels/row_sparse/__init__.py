"""Updates that each change few rows of a table (an embedding): their type, Gram matrix and weighted sum."""

from rflbat_kernels.row_sparse.torch import (
    RowSparse,
    SharedRows,
    TouchedRows,
    row_sparse_gram,
    row_sparse_weighted_sum,
)

__all__ = ["RowSparse", "SharedRows", "TouchedRows", "row_sparse_gram", "row_sparse_weighted_sum"]
