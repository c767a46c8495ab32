"""Gram matrix, weighted sum and finiteness of the rows of a wide matrix."""

from rflbat_kernels.gram.base import Gram
from rflbat_kernels.gram.torch import distances_to_sum, finite_rows, gram, inner_products, weighted_sum

__all__ = ["Gram", "distances_to_sum", "finite_rows", "gram", "inner_products", "weighted_sum"]
