"""Batched k-means of many point sets, and rules that choose the number of clusters."""

from rflbat_kernels.kmeans.torch import KMeans, gap_statistic, kmeans, silhouette

__all__ = ["KMeans", "gap_statistic", "kmeans", "silhouette"]
