"""Comparison with a truth by two numbers: one wrong element in a million hides in an RMS, not in a largest error."""

import numpy as np
import torch
from numpy.typing import ArrayLike


def assert_near(actual: torch.Tensor, truth: ArrayLike | torch.Tensor, relative: float) -> None:
    """Both the RMS error and the largest error are at most `relative` times the RMS and the largest of the truth."""
    assert actual.dtype == torch.float64
    got = actual.numpy()
    wanted = np.asarray(truth, dtype=np.float64)
    assert got.shape == wanted.shape, f"shape {got.shape}, wanted {wanted.shape}"
    assert np.isfinite(got).all(), "something is not finite"
    if not got.size:
        return
    # Divided by the largest first: squares of 1e200 overflow.
    largest = np.abs(wanted).max() or 1.0
    error = (got - wanted) / largest
    rms, scale = np.sqrt(np.mean(error**2)), np.sqrt(np.mean((wanted / largest) ** 2))
    assert rms <= relative * scale, f"RMS error {rms:.2e} of {scale:.2e}"
    assert np.abs(error).max() <= relative, f"largest error {np.abs(error).max():.2e} of the largest element"


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Standard normal numbers that depend on the seed alone."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers in [0, 1) that depend on the seed alone."""
    return torch.from_numpy(np.random.default_rng(seed).random(shape))
