"""Median of the entries that count."""

from rflbat_kernels.median.reference import masked_median

__all__ = ["masked_median"]
