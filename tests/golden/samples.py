"""Small files of every data set that reads files: the images are scikit-learn's digits, the texts are made up.

So a few rounds learn something, and the numbers of a run move when what it computes moves.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from rflbat.data import digits
from rflbat.data.mnist import FASHION_MNIST, MNIST, Family
from tests.engine.data.conftest import idx_bytes
from tests.engine.data.leaf_files import Users, document, write_json

TRAIN, TEST = 400, 150
WRITERS, WRITER_SIZES = 12, (11, 24, 38)
"""Writers of FEMNIST; their numbers of training samples go round this list."""


def write_idx(folder: Path, family: Family, *, mirrored: bool = False) -> None:
    """Write the four IDX files, with the digits as images; mirrored ones stand for clothing."""
    data = digits.load()
    parts = (("train", data.train_x[:TRAIN], data.train_y[:TRAIN]), ("t10k", data.test_x[:TEST], data.test_y[:TEST]))
    place = folder / family.folders[0]
    place.mkdir()
    for part, images, labels in parts:
        pixels = (images.flip(-1) if mirrored else images)[:, 0].contiguous()
        (place / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(pixels.numpy()))
        (place / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels.to(torch.uint8).numpy()))


def user(images: Tensor, labels: Tensor) -> dict[str, list[object]]:
    """Write down samples as LEAF does: dark ink on background 1."""
    levels = 255 - images.flatten(1).to(torch.int64)
    return {"x": (levels.double() / 255).tolist(), "y": labels.tolist()}


def write_femnist(folder: Path) -> None:
    """Write one training and one test file of LEAF, with the digits of a dozen writers."""
    data = digits.load()
    train: Users = {}
    first = 0
    for number in range(WRITERS):
        rows = slice(first, first := first + WRITER_SIZES[number % len(WRITER_SIZES)])
        train[f"f{number:02}"] = user(data.train_x[rows], data.train_y[rows])
    test = {"f00": user(data.test_x[:TEST], data.test_y[:TEST])}
    write_json(folder / "femnist" / "leaf_train.json", document(train))
    write_json(folder / "femnist" / "leaf_test.json", document(test))


def words(number: int, label: int, classes: int) -> str:
    """Write a text that names its class in its last word, after a few others; every seventh names the next class."""
    named = label if number % 7 else (label + 1) % classes
    return f"{'so ' * (number % 4)}good, number {number} {'x' * (number % 5)} mark{named}"


def write_amazon(folder: Path) -> None:
    """Write a table of reviews by 8 reviewers. Without the package tokenizers the test that asks is skipped."""
    from tests.engine.data import test_amazon

    rows = [(n, f"U{n % 8}", n % 5 + 1, "", words(n, n % 5, 5)) for n in range(300)]
    test_amazon.write(folder / "Reviews.csv", rows)


def write_imdb(folder: Path) -> None:
    """Write a table of reviews of 10 films; skipped as the other texts."""
    from tests.engine.data import test_imdb

    texts = enumerate((part, label) for _ in range(60) for part in ("train", "test") for label in (0, 1))
    rows = [(part, label, n, 3 + 5 * label, f"tt{n // 4 % 10}", words(n, label, 2)) for n, (part, label) in texts]
    test_imdb.write(folder / "imdb.csv.gz", rows)


WRITE: dict[str, Callable[[Path], None]] = {
    "mnist": lambda folder: write_idx(folder, MNIST),
    "fashion-mnist": lambda folder: write_idx(folder, FASHION_MNIST, mirrored=True),
    "femnist": write_femnist,
    "amazon": write_amazon,
    "imdb": write_imdb,
}
"""Data set -> writes its files into a folder. The digits need none."""
