"""What this installation can do here: versions, devices, optional packages, data at hand."""

import importlib.util
import os
from pathlib import Path

import torch

from rflbat.data.registry import DATASETS, load
from rflbat.errors import UserError
from rflbat.world import DATA_DIR, versions

OPTIONAL = {
    "triton": "kernels for CUDA devices; comes with torch on Linux",
    "cupy": "extra [gpu]",
    "cuml": "extra [gpu]",
    "tokenizers": "extra [text], for amazon",
}


def _data(name: str, data_dir: Path | None) -> tuple[bool, str]:
    if data_dir is None and name != "digits":
        return False, f"set {DATA_DIR} or give --data-dir; {DATASETS[name].where}"
    try:
        return True, f"read from {load(name, data_dir).source}"
    except UserError as error:
        return False, str(error)


def examine(data_dir: str | None = None) -> list[tuple[str, bool, str]]:
    """Look at versions, devices, optional packages and data sets, downloading nothing.

    Args:
        data_dir: folder of data sets; default ``$RFLBAT_DATA_DIR``.

    Returns:
        (what, whether it is there, a line about it) in the order to be shown.
    """
    found = [(package, number != "not installed", number) for package, number in versions().items()]
    found.append(("cpu", True, f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch"))
    cuda = torch.cuda.is_available()
    about = torch.cuda.get_device_name() if cuda else "torch sees no CUDA device; everything runs on the CPU"
    found.append(("cuda", cuda, about))
    found += [(name, importlib.util.find_spec(name) is not None, what) for name, what in OPTIONAL.items()]
    folder = data_dir or os.environ.get(DATA_DIR)
    found += [(f"data: {name}", *_data(name, Path(folder) if folder else None)) for name in DATASETS]
    return found
