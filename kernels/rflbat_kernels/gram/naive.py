"""Definitions of the operations of ``gram``, in plain float64 and without care for speed, memory or rounding.

Axes: N rows (clients), D columns (parameters), V valid rows.
"""

import torch
from torch import Tensor

from rflbat_kernels.gram.base import LARGEST, Gram


def valid_rows(valid_N: Tensor | None, rows: int) -> Tensor:
    """Return the indices (V,) of the valid rows. None: all rows."""
    return torch.arange(rows) if valid_N is None else torch.arange(rows)[valid_N]


def gram(matrix_ND: Tensor, valid_N: Tensor | None = None) -> Gram:
    """Compute ``<d_i - q, d_j - q>`` for three origins q: the mean, 0 and the anchor of the valid rows.

    The anchor of a column is its value nearest to 0, or 0 if the signs differ:
    ``max(min_i d_i, 0) + min(max_i d_i, 0)``. Rows and columns of invalid rows are 0.
    """
    rows_V = valid_rows(valid_N, len(matrix_ND))
    results = [torch.zeros(len(matrix_ND), len(matrix_ND), dtype=torch.float64) for _ in range(3)]
    if len(rows_V):
        matrix_VD = matrix_ND[rows_V].to(torch.float64)
        mean_D = matrix_VD.mean(0)
        anchor_D = matrix_VD.amin(0).clamp_min(0.0) + matrix_VD.amax(0).clamp_max(0.0)
        for result_NN, origin_D in zip(results, (mean_D, torch.zeros_like(mean_D), anchor_D), strict=True):
            result_NN[rows_V[:, None], rows_V] = (matrix_VD - origin_D) @ (matrix_VD - origin_D).T
    return Gram(*results)


def weighted_sum(weights_N: Tensor, matrix_ND: Tensor) -> Tensor:
    """Compute ``sum_i w_i d_i`` over the rows with ``w_i != 0``, in the dtype of the matrix."""
    used_N = weights_N != 0
    terms_MD = weights_N[used_N, None].to(torch.float64) * matrix_ND[used_N].to(torch.float64)
    return terms_MD.sum(0).to(matrix_ND.dtype)


def distances_to_sum(weights_N: Tensor, matrix_ND: Tensor, valid_N: Tensor | None = None) -> Tensor:
    """Compute ``||d_i - sum_j w_j d_j||`` for each valid row i, and 0 for invalid rows."""
    rows_V = valid_rows(valid_N, len(matrix_ND))
    matrix_VD = matrix_ND[rows_V].to(torch.float64)
    distance_N = torch.zeros(len(matrix_ND), dtype=torch.float64)
    distance_N[rows_V] = (matrix_VD - weighted_sum(weights_N[rows_V], matrix_VD)).square().sum(1).sqrt()
    return distance_N


def inner_products(matrix_ND: Tensor, vector_D: Tensor, valid_N: Tensor | None = None) -> Tensor:
    """Compute ``<d_i, v>`` for each valid row i, and 0 for invalid rows."""
    rows_V = valid_rows(valid_N, len(matrix_ND))
    product_N = torch.zeros(len(matrix_ND), dtype=torch.float64)
    product_N[rows_V] = (matrix_ND[rows_V].to(torch.float64) * vector_D.to(torch.float64)).sum(1)
    return product_N


def finite_rows(matrix_ND: Tensor) -> Tensor:
    """Return whether all entries of a row are at most 1e100 in magnitude, which excludes NaN and Inf."""
    return (matrix_ND.to(torch.float64).abs() <= LARGEST).all(1)
