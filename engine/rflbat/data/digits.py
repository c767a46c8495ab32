"""The 1,797 handwritten 8x8 digits embedded in scikit-learn: real data without a network.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998
(its test set), as returned by ``sklearn.datasets.load_digits``.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from rflbat.data.base import Dataset, standardized

_STORED = 8  # pixels per side, each 0..16
_SIDE = 28  # pixels per side of MNIST, so that its models and triggers fit
_INK = 16


def load(data_dir: Path | None = None, *, mean: float = 0.0, std: float = 1.0) -> Dataset:
    """1,797 handwritten digits enlarged to 28x28, 10 classes, split 80/20.

    Each 8x8 image V (0..16) becomes round(255/16 * W V W'), where W (28, 8) holds bilinear weights (pixel centres at
    half-integers, borders repeated: ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``). The
    weights are multiples of 1/14, so the computation uses integers only and gives the same bytes on every machine.
    The split is stratified and deterministic: of each class, every fifth sample in stored order is a test sample.

    Files:
        none; the digits are part of scikit-learn.

    Args:
        data_dir: not used; no files are read.
        mean: subtracted from the values in 0..1; 0 has no effect.
        std: divisor applied after the subtraction, above 0.

    Returns:
        1,442 training and 355 test samples (1, 28, 28) uint8, background 0, ink 255; no writers.

    Example:
        >>> digits = load()
        >>> tuple(digits.train_x.shape), len(digits.test_y)
        ((1442, 1, 28, 28), 355)
    """
    from sklearn.datasets import load_digits  # imports take a second, which other data sets do not need

    stored, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(_enlarge(stored.reshape(-1, _STORED, _STORED).astype(np.int64))).unsqueeze(1)
    targets = torch.from_numpy(labels.astype(np.int64))
    is_test = torch.from_numpy(_every_fifth(labels))
    dataset = Dataset(
        name="digits",
        train_x=images[~is_test],
        train_y=targets[~is_test],
        test_x=images[is_test],
        test_y=targets[is_test],
        classes=10,
        shape=(1, _SIDE, _SIDE),
        low=0.0,
        high=1.0,
        scale=1 / 255,
        train_writers=None,
        model="logistic",
        source="scikit-learn's embedded digits",
    )
    return standardized(dataset, mean, std)


def _enlarge(images: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    weights = _bilinear_14ths()
    sums = weights @ images @ weights.T  # 14 * 14 times the interpolated value
    whole = 14 * 14 * _INK
    return ((255 * sums + whole // 2) // whole).astype(np.uint8)


def _bilinear_14ths() -> npt.NDArray[np.int64]:
    """Return weights (28, 8) in 14ths: pixel i has its centre at (i + 1/2) * 8/28 - 1/2 = (4 i - 5) / 14."""
    weights = np.zeros((_SIDE, _STORED), dtype=np.int64)
    for pixel in range(_SIDE):
        left, past = divmod(4 * pixel - 5, 14)
        weights[pixel, max(left, 0)] += 14 - past
        weights[pixel, min(left + 1, _STORED - 1)] += past
    return weights


def _every_fifth(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[4::5]] = True
    return chosen
