"""MNIST and Fashion-MNIST from their four IDX files, read from disk or downloaded by torchvision.

Sources: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition, 1998;
H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, 2017 (arXiv:1708.07747); writers: C. Yadav, L. Bottou, Cold case: the
lost MNIST digits, 2019 (QMNIST, arXiv:1905.10498).
"""

import contextlib
import hashlib
import http.client
import io
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rflbat.data.base import Dataset, standardized
from rflbat.data.idx import read_idx
from rflbat.errors import UserError
from rflbat.storage.untrusted import open_regular

_log = logging.getLogger(__name__)

_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
_STEMS = tuple(f"{part}-{kind}" for part in ("train", "t10k") for kind in _KINDS)
_WRITERS = "qmnist-train-labels-idx2-int"
_WRITER_COLUMN = 2  # the columns are class, NIST series, NIST writer, ...
_CLASSES = 10
_SIDE = 28


@dataclass(frozen=True)
class Family:
    """A data set with MNIST's file names and format.

    Attributes:
        name: name in the registry.
        title: name in messages.
        folders: possible subfolders of the data folder; messages recommend the first.
        torchvision: the class in ``torchvision.datasets`` that downloads and unpacks it.
        sha256: SHA-256 of the four downloaded files, compressed, in the order of ``_STEMS``.
        origin: where users can get the files.
        first_labels: the first ten training labels, which identify the data set.
        has_writers: whether QMNIST's extended labels describe the training samples.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    torchvision: str
    sha256: tuple[str, str, str, str]
    origin: str
    first_labels: tuple[int, ...]
    has_writers: bool


MNIST = Family(
    name="mnist",
    title="MNIST",
    folders=("mnist", "MNIST/raw"),
    torchvision="MNIST",
    sha256=(
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    origin="yann.lecun.com/exdb/mnist or torchvision",
    first_labels=(5, 0, 4, 1, 9, 2, 1, 3, 1, 4),
    has_writers=True,
)
FASHION_MNIST = Family(
    name="fashion-mnist",
    title="Fashion-MNIST",
    folders=("fashion-mnist", "fashion_mnist", "FashionMNIST/raw"),
    torchvision="FashionMNIST",
    sha256=(
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    origin="github.com/zalandoresearch/fashion-mnist or torchvision",
    first_labels=(9, 0, 0, 3, 0, 2, 7, 2, 5, 5),
    has_writers=False,
)


def load(data_dir: Path | None = None, family: Family = MNIST, *, mean: float = 0.0, std: float = 1.0) -> Dataset:
    """70,000 handwritten digits 28x28, 10 classes; 539 training writers with QMNIST's labels.

    Grey images, background 0, ink 255.

    The loader searches ``data_dir`` and then the family's subfolders for the four IDX files, each plain or .gz.
    Without ``data_dir``, torchvision downloads them once to ``$XDG_CACHE_HOME/rflbat`` (``~/.cache/rflbat``), where
    they are kept if their SHA-256 is correct.
    MNIST's writers come from ``qmnist-train-labels-idx2-int``, plain or .gz, if that file is in ``data_dir``, in its
    subfolder ``mnist_writers``, or in ``mnist_writers`` next to the folder of the images. Without it, the data set has
    no writers.

    Files:
        four IDX files, plain or .gz, in DIR, DIR/mnist or DIR/MNIST/raw, from yann.lecun.com/exdb/mnist or
        torchvision; without DIR torchvision downloads them to ~/.cache/rflbat. Writers:
        ``qmnist-train-labels-idx2-int.gz`` in DIR/mnist_writers.

    Args:
        data_dir: folder of data sets, or None.
        family: ``MNIST`` or ``FASHION_MNIST``.
        mean: subtracted from the values in 0..1; 0 has no effect.
        std: divisor applied after the subtraction, above 0.

    Returns:
        60,000 training and 10,000 test samples (1, 28, 28) uint8 (fewer if the files hold fewer).

    Raises:
        UserError: files are missing, damaged, contradict each other, or belong to the other family; or the download
            failed.

    Example:
        >>> load(Path("no-such-folder"), FASHION_MNIST)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        rflbat.errors.UserError: ...no-such-folder: there is no such folder; get the four IDX files from ...
    """
    if data_dir is None:
        root, get = _cache(), _hint(family, None)
        folder = _fetch(root, family, get)
        mend = f"delete it to have it downloaded again, or {get}"
    else:
        root = Path(os.path.abspath(data_dir.expanduser()))
        mend = get = _hint(family, root)
        folder = _find(root, family, get)
    train_x, train_y = _read_part(root, folder, "train", mend)
    test_x, test_y = _read_part(root, folder, "t10k", mend)
    for other in (MNIST, FASHION_MNIST):
        if other.name != family.name and tuple(train_y[:10].tolist()) == other.first_labels:
            raise UserError(f"{folder}: holds {other.title}, not {family.title}; {get}")
    dataset = Dataset(
        name=family.name,
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        classes=_CLASSES,
        shape=(1, _SIDE, _SIDE),
        low=0.0,
        high=1.0,
        scale=1 / 255,
        train_writers=_read_writers(root, folder, train_y) if family.has_writers else None,
        model="logistic",
        source=str(folder),
    )
    return standardized(dataset, mean, std)


def load_fashion(data_dir: Path | None = None, *, mean: float = 0.0, std: float = 1.0) -> Dataset:
    """70,000 articles of clothing 28x28, 10 classes.

    Files:
        four IDX files, plain or .gz, in DIR, DIR/fashion-mnist, DIR/fashion_mnist or DIR/FashionMNIST/raw, from
        github.com/zalandoresearch/fashion-mnist; without DIR torchvision downloads them to ~/.cache/rflbat.

    Args:
        data_dir: folder of data sets, or None.
        mean: subtracted from the values in 0..1; 0 has no effect.
        std: divisor applied after the subtraction, above 0.

    Returns:
        60,000 training and 10,000 test samples (1, 28, 28) uint8; no writers.

    Raises:
        UserError: as in ``load``.

    Example:
        >>> load_fashion(Path("no-such-folder"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        rflbat.errors.UserError: ...no-such-folder: there is no such folder; get the four IDX files from ...
    """
    return load(data_dir, FASHION_MNIST, mean=mean, std=std)


def _hint(family: Family, root: Path | None) -> str:
    place = (
        f"{root}/{family.folders[0]}" if root else f"DIR/{family.folders[0]}, where DIR is the data folder (--data-dir)"
    )
    return f"get the four IDX files from {family.origin} and put them in {place}"


def _cache() -> Path:
    # The XDG specification: an empty or relative value counts as unset.
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "rflbat"


def _file(folder: Path, stem: str) -> Path | None:
    """Find one IDX file by its names; ``train-images.idx3-ubyte`` is the name inside the original .gz."""
    names = (stem, f"{stem}.gz", stem.replace("-idx", ".idx"))
    return next((path for name in names if (path := folder / name).is_file()), None)


def _find(root: Path, family: Family, hint: str) -> Path:
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; {hint}")
    folders = [root, *(root / name for name in family.folders)]
    missing = {folder: [stem for stem in _STEMS if _file(folder, stem) is None] for folder in folders}
    for folder, stems in missing.items():
        if not stems:
            return folder
    for folder, stems in missing.items():
        if len(stems) < len(_STEMS):
            raise UserError(f"{folder}: {' and '.join(stems)} not found, neither plain nor .gz; {hint}")
    raise UserError(f"{root}: holds no {family.title}, neither directly nor in {', '.join(family.folders)}; {hint}")


def _fetch(root: Path, family: Family, hint: str) -> Path:
    """Return the folder of the files below ``root``, after downloading them unless all are present."""
    raw = root / family.torchvision / "raw"
    # Only unpacked files count: a .gz may be left over from an interrupted download.
    if not all((raw / stem).is_file() for stem in _STEMS):
        _log.info("downloading %s to %s", family.title, raw)
        try:
            _download(root, family)
        except UserError:
            raise
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
            raise UserError(
                f"{family.title} is not in {root} and could not be downloaded ({reason}; no network?); {hint}"
            ) from error
    return raw


def _download(root: Path, family: Family) -> None:
    """Download to a temporary folder next to the final one, check SHA-256, then move the files into place."""
    from torchvision import datasets  # imports take seconds and are needed for the first download only

    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{family.torchvision}-", dir=root) as temporary:
        # A library should not write to the terminal, and torchvision's progress bar cannot be turned off.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            getattr(datasets, family.torchvision)(temporary, download=True)
        fetched, raw = (Path(folder) / family.torchvision / "raw" for folder in (temporary, root))
        for stem, expected in zip(_STEMS, family.sha256, strict=True):
            with open_regular(fetched / f"{stem}.gz", fetched) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != expected:
                what = f"the downloaded {stem}.gz has SHA-256 {found}, expected {expected}"
                raise UserError(f"{family.title}: {what}; the download was discarded")
        raw.mkdir(parents=True, exist_ok=True)
        for stem in _STEMS:
            os.replace(fetched / stem, raw / stem)


def _read_part(root: Path, folder: Path, part: str, hint: str) -> tuple[Tensor, Tensor]:
    """Read images (n, 1, 28, 28) uint8 and labels (n,) int64 of "train" or "t10k"."""
    stems = [f"{part}-{kind}" for kind in _KINDS]
    images_path, labels_path = (_file(folder, stem) or folder / stem for stem in stems)
    images, labels = read_idx(images_path, hint, root), read_idx(labels_path, hint, root)
    if images.shape[1:] != (_SIDE, _SIDE):
        raise UserError(f"{images_path}: holds an array of shape {images.shape}, expected (n, 28, 28); {hint}")
    if labels.shape != images.shape[:1]:
        raise UserError(
            f"{labels_path}: holds an array of shape {labels.shape}, expected {images.shape[:1]} "
            f"for the images in {images_path.name}; {hint}"
        )
    if labels.max() >= _CLASSES:
        raise UserError(f"{labels_path}: holds the label {labels.max()}; allowed: 0 to {_CLASSES - 1}; {hint}")
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).to(torch.int64)


def _read_writers(root: Path, folder: Path, train_y: Tensor) -> Tensor | None:
    """Read the writer (n,) int64 of each training image, or return None if there is no file of writers."""
    beside = folder.parent / "mnist_writers"
    places = ((root, root), (root / "mnist_writers", root), (beside, beside))
    path, within = next(((found, top) for place, top in places if (found := _file(place, _WRITERS))), (None, root))
    if path is None:
        return None
    hint = f"get {_WRITERS}.gz from github.com/facebookresearch/qmnist, or remove it to load without writers"
    table = read_idx(path, hint, within)
    if table.ndim != 2 or table.shape[1] <= _WRITER_COLUMN or len(table) != len(train_y):
        raise UserError(f"{path}: holds an array of shape {table.shape}, expected ({len(train_y)}, 8); {hint}")
    if not torch.equal(torch.from_numpy(table[:, 0]).to(torch.int64), train_y):
        raise UserError(f"{path}: its labels differ from those in {folder}, so its rows describe other images; {hint}")
    return torch.from_numpy(table[:, _WRITER_COLUMN]).to(torch.int64)
