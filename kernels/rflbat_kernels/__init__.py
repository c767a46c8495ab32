"""Numerical operations of robust aggregation: any torch device, float64 inside, no wait for the device."""

from rflbat_kernels.dispatch import Choice, choose
from rflbat_kernels.gram import Gram, finite_rows, gram, weighted_sum
from rflbat_kernels.kmeans import KMeans, gap_statistic, kmeans, silhouette
from rflbat_kernels.median import masked_median
from rflbat_kernels.order import (
    Split,
    column_central_mean,
    column_median,
    column_trimmed_mean,
    column_two_means,
    minority_counts,
)
from rflbat_kernels.pairwise import cosines, distances, squared_distances
from rflbat_kernels.pca import pca, pca_lowrank

__all__ = [
    "Choice",
    "Gram",
    "KMeans",
    "Split",
    "choose",
    "column_central_mean",
    "column_median",
    "column_trimmed_mean",
    "column_two_means",
    "cosines",
    "distances",
    "finite_rows",
    "gap_statistic",
    "gram",
    "kmeans",
    "masked_median",
    "minority_counts",
    "pca",
    "pca_lowrank",
    "silhouette",
    "squared_distances",
    "weighted_sum",
]
