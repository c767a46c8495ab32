"""Principal component scores, from a Gram matrix or from the matrix itself."""

from rflbat_kernels.pca.torch import pca, pca_lowrank

__all__ = ["pca", "pca_lowrank"]
