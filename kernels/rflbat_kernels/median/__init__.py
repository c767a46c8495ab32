"""Median of the valid entries along an axis."""

from rflbat_kernels.median.torch import masked_median

__all__ = ["masked_median"]
