"""Distances and cosines between rows, from their Gram matrix or from points with few coordinates."""

from rflbat_kernels.pairwise.torch import cosines, distance_sums, distances, squared_distances

__all__ = ["cosines", "distance_sums", "distances", "squared_distances"]
