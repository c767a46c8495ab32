"""FEMNIST from LEAF's JSON files: handwritten characters of 62 classes, each image with its writer.

Source: S. Caldas et al., LEAF: a benchmark for federated settings, 2018 (arXiv:1812.01097), from NIST Special Database
19 (G. Cohen et al., EMNIST: extending MNIST to handwritten letters, 2017).
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rflbat.data.base import Dataset, standardized
from rflbat.data.leaf import read_users, shown
from rflbat.errors import UserError, nearest
from rflbat.storage.tensors import load_tensors, save_tensors
from rflbat.storage.untrusted import open_regular

_log = logging.getLogger(__name__)

_FOLDERS = ("femnist", "femnist_leaf")
_PARTS = ("train", "test")
_CLASSES = 62
_SIDE = 28
POLARITIES = {"ink": (0.0, 1.0), "leaf": (1.0, 0.0)}
"""Name -> values of background and ink. LEAF's files use the second."""
_FORMAT = "femnist 1"  # version of the cache; change it whenever the cached contents change

WANTED = "*{train,test}*.json or LEAF's {train,test}/all_data_*.json (or .json.gz)"
ORIGIN = "github.com/TalwalkarLab/leaf (in data/femnist: ./preprocess.sh -s niid --sf 1.0 -k 0 -t sample)"
_HINT = f"put {WANTED} in DIR/{_FOLDERS[0]}, from {ORIGIN}"

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Part = dict[str, tuple[Pixels, npt.NDArray[np.int64]]]


def load(
    data_dir: Path | None = None, *, polarity: str = "ink", min_samples: int = 1, mean: float = 0.0, std: float = 1.0
) -> Dataset:
    """Handwritten characters 28x28, 62 classes, each with its writer (LEAF: 3,500 writers in all).

    Grey images of 10 digits, 26 capitals and 26 small letters, background 0, ink 1.

    LEAF's files store the opposite: background 1 and ink 0. With that polarity, nearly every input of the first layer
    is 1, all updates share one large component, and training is slow. Images are therefore inverted unless
    ``polarity="leaf"``.

    The loader reads any number of LEAF files: ``*train*.json`` and ``*test*.json``, or LEAF's own
    ``train/all_data_*.json`` and ``test/all_data_*.json``, each plain or .gz. It searches ``data_dir``, then its
    subfolders ``femnist`` and ``femnist_leaf``. Samples are ordered by user name, regardless of the order and number of
    the files. Users without samples are skipped, and their number is logged.
    Storage is uint8 if every value is k/255 up to float32 rounding (as in LEAF's own files), else float32.

    The parsed data are cached next to the files as ``femnist-KEY.safetensors``, or in ``$XDG_CACHE_HOME/rflbat``
    (``~/.cache/rflbat``) if their folder is not writable. KEY is derived from the SHA-256 of every file, so changed
    files are parsed again. The cache may be deleted at any time.

    Files:
        ``*train*.json`` and ``*test*.json``, or LEAF's ``train/all_data_*.json`` and ``test/all_data_*.json``, plain or
        .gz, in DIR, DIR/femnist or DIR/femnist_leaf; from github.com/TalwalkarLab/leaf (in data/femnist:
        ``./preprocess.sh -s niid --sf 1.0 -k 0 -t sample``).

    Args:
        data_dir: folder of data sets; required, because FEMNIST cannot be downloaded.
        polarity: "ink" (background 0, ink 1, as in MNIST) or "leaf" (background 1, ink 0, as in the files).
        min_samples: minimum number of training images per writer, like LEAF's option ``-k``; training images of other
            writers are dropped. LEAF's subsampling (``--sf``) leaves some writers with as few as 2 images.
        mean: subtracted from the values; 0 has no effect.
        std: divisor applied after the subtraction, above 0.

    Returns:
        training and test samples (n, 1, 28, 28), and the writers of the training samples: positions in the sorted
        names of all users with training or test samples.

    Raises:
        UserError: an argument is out of range; or files are missing, damaged, repeat a user, or hold anything other
            than 784 values in 0..1 per image and labels in 0..61.

    Example:
        >>> load(Path("no-such-folder"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        rflbat.errors.UserError: ...no-such-folder: there is no such folder; put *{train,test}*.json or ...
    """
    if polarity not in POLARITIES:
        raise UserError(f"polarity={polarity!r}{nearest(polarity, POLARITIES)}; allowed: {', '.join(POLARITIES)}")
    if data_dir is None:
        raise UserError(f"FEMNIST needs a data folder (--data-dir DIR); {_HINT}")
    root = Path(os.path.abspath(data_dir.expanduser()))
    folder, paths = _find(root)
    key = _key(root, paths)
    tensors = _recall(folder, key)
    if tensors is None:
        tensors = _parse(root, folder, paths)
        # Files that changed while they were read must not be cached under the hash of their old contents.
        if _key(root, paths) == key:
            _remember(folder, key, tensors)
    tensors = _of_writers(tensors, min_samples)
    low, high = POLARITIES[polarity]
    scale = 1 / 255 if tensors["train_x"].dtype == torch.uint8 else 1.0
    dataset = Dataset(
        name="femnist",
        train_x=tensors["train_x"],
        train_y=tensors["train_y"],
        test_x=tensors["test_x"],
        test_y=tensors["test_y"],
        classes=_CLASSES,
        shape=(1, _SIDE, _SIDE),
        low=low,
        high=high,
        scale=scale * (low - high),
        offset=high,
        train_writers=tensors["train_writers"],
        model="cnn",
        source=str(folder),
    )
    return standardized(dataset, mean, std)


def _of_writers(tensors: dict[str, Tensor], min_samples: int) -> dict[str, Tensor]:
    """Drop the training images of writers with too few; test images are not assigned to writers."""
    counts = torch.bincount(tensors["train_writers"])
    most = int(counts.max())
    if not 1 <= min_samples <= most:
        raise UserError(f"min_samples={min_samples} is out of range; allowed: 1 to {most}, the largest of any writer")
    kept = counts[tensors["train_writers"]] >= min_samples
    if kept.all():
        return tensors
    return {**tensors, **{name: tensors[name][kept] for name in ("train_x", "train_y", "train_writers")}}


def _find(root: Path) -> tuple[Path, dict[str, list[Path]]]:
    """Return the first folder with files of both parts, and the files of each part."""
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; {_HINT}")
    folders = [root, *(root / name for name in _FOLDERS)]
    found = {folder: {part: _files(folder, part) for part in _PARTS} for folder in folders}
    for folder, paths in found.items():
        if all(paths.values()):
            both = set(paths["train"]) & set(paths["test"])
            if both:
                raise UserError(f"{min(both)}: its name contains both train and test; allowed: one of them; {_HINT}")
            return folder, paths
    for folder, paths in found.items():
        for part, other in (_PARTS, _PARTS[::-1]):
            if paths[part]:
                raise UserError(f"{folder}: holds {paths[part][0].name}, but no {other} files; {_HINT}")
    raise UserError(f"{root}: holds no FEMNIST, neither directly nor in {', '.join(_FOLDERS)}; {_HINT}")


def _files(folder: Path, part: str) -> list[Path]:
    patterns = [f"{name}{end}" for name in (f"*{part}*", f"{part}/all_data_*") for end in (".json", ".json.gz")]
    paths = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in paths if path.is_file() and not path.name.startswith("."))


def _parse(root: Path, folder: Path, paths: dict[str, list[Path]]) -> dict[str, Tensor]:
    _log.info("reading %d LEAF files in %s", sum(map(len, paths.values())), folder)
    parts = {part: _read_part(root, paths[part]) for part in _PARTS}
    for part in _PARTS:
        if not parts[part]:
            raise UserError(f"{folder}: its {part} files hold no samples; {_HINT}")
    numbers = {user: number for number, user in enumerate(sorted({*parts["train"], *parts["test"]}))}
    whole = all(pixels.dtype == np.uint8 for users in parts.values() for pixels, _ in users.values())
    dtype = np.dtype(np.uint8 if whole else np.float32)
    writers = [np.full(len(labels), numbers[user]) for user, (_, labels) in sorted(parts["train"].items())]
    tensors = {"train_writers": torch.from_numpy(np.concatenate(writers))}
    for part in _PARTS:
        tensors[f"{part}_x"], tensors[f"{part}_y"] = _join(parts[part], dtype)
    return tensors


def _read_part(root: Path, paths: list[Path]) -> Part:
    """Read images (n, 784) and labels (n,) of each user with samples."""
    part: Part = {}
    homes: dict[str, Path] = {}
    for path in paths:
        for user, x, y in read_users(path, _HINT, root):
            if user in homes:
                raise UserError(
                    f"{path}: user {shown(user)} is also in {homes[user]}; keep one of the two files; {_HINT}"
                )
            homes[user] = path
            try:
                if y:
                    part[user] = _to_pixels(x), _to_labels(y)
            except ValueError as error:
                raise UserError(f"{path}: user {shown(user)}: {error}; {_HINT}") from error
    if len(part) < len(homes):
        _log.info("skipped %d of %d users, who have no samples", len(homes) - len(part), len(homes))
    return part


def _to_pixels(images: list[Any]) -> Pixels:
    """Return uint8 levels k if every value rounds to the same float32 as k/255, else the values as float32."""
    for number, image in enumerate(images):
        if not isinstance(image, list) or len(image) != _SIDE**2:
            found = f"{len(image)} values" if isinstance(image, list) else shown(image)
            raise ValueError(f"image {number} holds {found}, expected {_SIDE**2} numbers")
        # numpy would accept true as 1.0.
        if not {*map(type, image)} <= {int, float}:
            wrong = next(value for value in image if type(value) not in (int, float))
            raise ValueError(f"image {number} holds {shown(wrong)}; allowed: numbers from 0 to 1")
        if not (min(image) >= 0 and max(image) <= 1):
            wrong = min(image) if min(image) < 0 else max(image)
            raise ValueError(f"image {number} holds {shown(wrong)}; allowed: numbers from 0 to 1")
    values = np.array(images, dtype=np.float64)
    levels = np.rint(values * 255)
    exact = values.astype(np.float32)
    return levels.astype(np.uint8) if np.array_equal((levels / 255).astype(np.float32), exact) else exact


def _to_labels(labels: list[Any]) -> npt.NDArray[np.int64]:
    for number, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < _CLASSES:
            raise ValueError(f"label {number} is {shown(label)}; allowed: integers from 0 to {_CLASSES - 1}")
    return np.array(labels, dtype=np.int64)


def _join(part: Part, dtype: np.dtype[Any]) -> tuple[Tensor, Tensor]:
    """Concatenate the users in the order of their names; empties ``part`` along the way to avoid a second copy."""
    labels = np.concatenate([labels for _, (_, labels) in sorted(part.items())])
    x = np.empty((len(labels), 1, _SIDE, _SIDE), dtype)
    start = 0
    for user in sorted(part):
        pixels, _ = part.pop(user)
        # Levels k become float32(k/255), which is exactly the file's value, as ``_to_pixels`` has checked.
        exact = pixels / 255 if pixels.dtype != dtype else pixels
        x[start : start + len(pixels)] = exact.reshape(-1, 1, _SIDE, _SIDE)
        start += len(pixels)
    return torch.from_numpy(x), torch.from_numpy(labels)


# The cache.


def _key(root: Path, paths: dict[str, list[Path]]) -> str:
    """Return the SHA-256 over the cache version and the SHA-256 of every file, regardless of the files' names."""
    lines = [_FORMAT]
    for part in _PARTS:
        for path in paths[part]:
            try:
                with open_regular(path, root) as file:
                    lines.append(f"{part} {hashlib.file_digest(file, 'sha256').hexdigest()}")
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror or error}); {_HINT}") from error
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _caches(folder: Path, key: str) -> Iterator[Path]:
    """Yield the possible paths of the cache, preferred first."""
    # os.access is always true for the superuser, who would then write to a folder made read-only on purpose.
    if os.access(folder, os.W_OK) and folder.stat().st_mode & 0o222:
        yield folder / f"femnist-{key[:16]}.safetensors"
    # The XDG specification: an empty or relative value counts as unset.
    named = (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache"))
    if root := next(filter(os.path.isabs, named), None):
        yield Path(root) / "rflbat" / f"femnist-{key[:16]}.safetensors"


def _recall(folder: Path, key: str) -> dict[str, Tensor] | None:
    for path in _caches(folder, key):
        try:
            tensors, meta = load_tensors(path)
        except UserError as error:
            _log.debug("cache not used: %s", error)
            continue
        if meta == {"key": key} and _is_whole(tensors):
            return tensors
    return None


def _is_whole(tensors: dict[str, Tensor]) -> bool:
    """Check that the tensors are ones that ``_parse`` returns; the checksum only detects accidental changes."""
    if set(tensors) != {"train_writers", *(f"{part}_{axis}" for part in _PARTS for axis in "xy")}:
        return False
    dtype = tensors["train_x"].dtype
    for part in _PARTS:
        x, y = tensors[f"{part}_x"], tensors[f"{part}_y"]
        if (x.dtype, x.shape) != (dtype, (len(y), 1, _SIDE, _SIDE)) or (y.dtype, y.dim()) != (torch.int64, 1):
            return False
        if dtype not in (torch.uint8, torch.float32) or not len(y) or not 0 <= int(y.min()) <= int(y.max()) < _CLASSES:
            return False
        if dtype == torch.float32 and not bool(((x >= 0) & (x <= 1)).all()):
            return False
    writers = tensors["train_writers"]
    return (writers.dtype, writers.shape) == (torch.int64, tensors["train_y"].shape) and int(writers.min()) >= 0


def _remember(folder: Path, key: str, tensors: dict[str, Tensor]) -> None:
    for path in _caches(folder, key):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(path, tensors, {"key": key})
            return
        except OSError as error:
            _log.info("cannot cache the parsed data in %s: %s", path, error)
