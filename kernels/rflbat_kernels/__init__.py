"""Numerical operations of robust aggregation, for any torch device.

All arithmetic is in float64, and no operation synchronises with the device unless its documentation says so.
"""

from rflbat_kernels.dispatch import Choice, choose, using
from rflbat_kernels.gram import Gram
from rflbat_kernels.kmeans import KMeans, gap_statistic, silhouette
from rflbat_kernels.operations import (
    column_central_mean,
    column_median,
    column_trimmed_mean,
    column_two_means,
    distance_sums,
    distances_to_sum,
    finite_rows,
    gram,
    hdbscan,
    inner_products,
    kmeans,
    masked_median,
    minority_counts,
    pca,
    pca_lowrank,
    squared_distances,
    weighted_sum,
)
from rflbat_kernels.order import Split
from rflbat_kernels.pairwise import cosines, distances
from rflbat_kernels.row_sparse import (
    RowSparse,
    SharedRows,
    TouchedRows,
    row_sparse_gram,
    row_sparse_weighted_sum,
)

__all__ = [
    "Choice",
    "Gram",
    "KMeans",
    "RowSparse",
    "SharedRows",
    "Split",
    "TouchedRows",
    "choose",
    "column_central_mean",
    "column_median",
    "column_trimmed_mean",
    "column_two_means",
    "cosines",
    "distance_sums",
    "distances",
    "distances_to_sum",
    "finite_rows",
    "gap_statistic",
    "gram",
    "hdbscan",
    "inner_products",
    "kmeans",
    "masked_median",
    "minority_counts",
    "pca",
    "pca_lowrank",
    "row_sparse_gram",
    "row_sparse_weighted_sum",
    "silhouette",
    "squared_distances",
    "using",
    "weighted_sum",
]
