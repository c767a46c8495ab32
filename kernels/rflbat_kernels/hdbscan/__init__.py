"""Clusters of varying density from distance matrices."""

from rflbat_kernels.hdbscan.sklearn import hdbscan

__all__ = ["hdbscan"]
