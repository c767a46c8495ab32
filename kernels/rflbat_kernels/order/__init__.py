"""Order statistics of the columns of a wide matrix: median, trimmed mean, mean around the median, 2-means."""

from rflbat_kernels.order.torch import column_central_mean, column_median, column_trimmed_mean, column_two_means
from rflbat_kernels.order.two_means import Split, minority_counts

__all__ = [
    "Split",
    "column_central_mean",
    "column_median",
    "column_trimmed_mean",
    "column_two_means",
    "minority_counts",
]
