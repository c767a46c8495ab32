"""Gram matrix, weighted sum and finiteness of the rows of a wide matrix."""

from rflbat_kernels.gram.reference import Gram, finite_rows, gram, weighted_sum

__all__ = ["Gram", "finite_rows", "gram", "weighted_sum"]
