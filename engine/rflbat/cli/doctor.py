"""Check of an installation: versions, devices, optional packages and data sets."""

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import make_dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import torch
from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from rflbat.cli.flags import DATA_FOLDER, parse
from rflbat.data.registry import DATASETS, load
from rflbat.errors import UserError
from rflbat.round.setup import DATA_DIR
from rflbat.simulation.provenance import versions

EXTRAS = {
    "report": "the page report.html",
    "text": "tokens of texts: amazon, imdb",
    "track": "trackers of --track",
    "gpu": "cuML's k-means on CUDA devices",
    "flower": "a defense as Flower's strategy, rflbat.interop.flower",
    "ray": "rflbat sweep --launcher ray",
    "docs": "packages that build docs/",
    "test": "packages of the test suite",
    "dev": "linters",
}
"""Extra of the package -> its purpose, in display order."""


def _wanted(package: str, extra: str) -> Iterator[Requirement]:
    """List the requirements of an extra on this system, including those of its own extras."""
    for line in requires(package) or []:
        wanted = Requirement(line)
        if wanted.marker and wanted.marker.evaluate({"extra": extra}) > wanted.marker.evaluate({"extra": ""}):
            yield wanted
            if _number(wanted.name):
                for inner in sorted(wanted.extras):
                    yield from _wanted(wanted.name, inner)


def _number(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _extra(name: str) -> tuple[bool, str]:
    """Check the packages of an extra: their versions, and the command that installs missing ones."""
    here, lacking = [], []
    for wanted in _wanted("rflbat", name):
        number = _number(wanted.name)
        if number is None:
            lacking.append(f"{wanted.name} is missing")
        elif not wanted.specifier.contains(number, prereleases=True):
            lacking.append(f"{wanted.name} {number} is not {wanted.specifier}")
        else:
            here.append(f"{wanted.name} {number}")
    line = f"{EXTRAS[name]}: {', '.join([*here, *lacking]) or 'not for this system'}"
    return bool(here) and not lacking, f"{line}; pip install 'rflbat[{name}]'" if lacking else line


def _extras() -> Iterator[tuple[str, bool, str]]:
    declared = (metadata("rflbat").get_all("Provides-Extra") or []) if _number("rflbat") else []
    for name in EXTRAS:
        if name in declared:
            yield f"extra: {name}", *_extra(name)
        else:
            yield (
                f"extra: {name}",
                False,
                f"{EXTRAS[name]}: unknown to the installed rflbat; reinstall it",
            )


def _data(name: str, data_dir: Path | None) -> tuple[bool, str]:
    if data_dir is None and name != "digits":
        return False, f"set {DATA_DIR} or pass --data-dir; `rflbat show {name}` lists the files"
    try:
        return True, f"read from {load(name, data_dir).source}"
    except UserError as error:
        return False, str(error)


def examine(data_dir: str | None = None) -> list[tuple[str, bool, str]]:
    """Check versions, devices, optional packages and data sets. Nothing is downloaded.

    Args:
        data_dir: folder of data sets; default ``$RFLBAT_DATA_DIR``.

    Returns:
        (name, whether it was found, one line about it) in display order.
    """
    found = [(package, number != "not installed", number) for package, number in versions().items()]
    found.append(("cpu", True, f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch"))
    cuda = torch.cuda.is_available()
    about = torch.cuda.get_device_name() if cuda else "torch sees no CUDA device; everything runs on the CPU"
    found.append(("cuda", cuda, about))
    triton = importlib.util.find_spec("triton") is not None
    found.append(("triton", triton, "kernels for CUDA devices; comes with torch on Linux"))
    found += _extras()
    folder = data_dir or os.environ.get(DATA_DIR)
    found += [(f"data: {name}", *_data(name, Path(folder) if folder else None)) for name in DATASETS]
    return found


def doctor_command(arguments: list[str]) -> None:
    """Print what this installation can do on this machine: ``rflbat doctor``.

    Args:
        arguments: words after the subcommand.

    Raises:
        UserError: a mistake of the user.
    """
    flags = parse(make_dataclass("doctor", [DATA_FOLDER]), arguments, "doctor")
    table = Table("", "", Column(overflow="fold"), box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, found, line in examine(flags.data_dir):
        table.add_row("yes" if found else "no", escape(name), escape(line))
    Console().print(table)
