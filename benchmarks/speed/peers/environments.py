"""One virtual environment per peer, so that the requirements of peers and of rflbat do not conflict.

``python -m benchmarks.speed.peers.environments pfl fedjax`` creates those of pfl-research and FedJAX; without names,
all. They are stored in ``~/.cache/rflbat/peers``, or in the folder of the variable ``RFLBAT_PEERS``. Packages are
installed by pip from its configured index. Nothing else in the project installs a peer.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"
NUMPY = "numpy==2.4.6"
STAMP = "installed.txt"


def _packages(python: Path) -> Path:
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip())


def _for_older_pythons(python: Path) -> None:
    """Rewrite two features of BlazeFL that need a newer Python: generic functions and deferred annotations."""
    for path in (_packages(python) / "blazefl").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        plain = re.sub(r"^def (\w+)\[T\]\(", r"def \1(", text, flags=re.MULTILINE)
        if plain != text:
            plain = f'from typing import TypeVar\n\nT = TypeVar("T")\n{plain}'
        path.write_text(f"from __future__ import annotations\n\n{plain}", encoding="utf-8")


STAND_IN = """def __getattr__(name):
    return lambda *_, **__: None
"""


def _without_torchvision(python: Path) -> None:
    """Install a dummy torchvision for a peer that imports it for data sets that the benchmark does not use.

    The real torchvision works only with the exact build of torch that it was built for.
    """
    package = _packages(python) / "torchvision"
    package.mkdir(exist_ok=True)
    for name, text in (("__init__.py", ""), ("datasets.py", STAND_IN), ("transforms.py", STAND_IN)):
        (package / name).write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Peer:
    """One peer of the registry.

    Attributes:
        title: name in reports.
        version: version of the peer; its pin is the last requirement of the last step.
        module: module of the peer; it is imported once at the end of the installation.
        harness: our module in this folder that runs the peer.
        steps: one ``pip install`` each: options, then pinned requirements.
        runs: names of workloads, or of defenses.
        mend: patches the installed files, given the environment's Python.
    """

    title: str
    version: str
    module: str
    harness: str
    steps: tuple[tuple[str, ...], ...]
    runs: tuple[str, ...]
    mend: Callable[[Path], None] | None = None

    @property
    def pins(self) -> tuple[str, ...]:
        """All pinned requirements.

        Example:
            >>> PEERS["pfl"].pins[-1]
            'pfl[pytorch]==0.6.0'
        """
        return tuple(word for step in self.steps for word in step if not word.startswith("-"))

    @property
    def stamp(self) -> str:
        """Content of the stamp file of a complete environment; if it differs, the environment is rebuilt."""
        mended = () if self.mend is None else ((self.mend.__name__,),)
        return "".join(" ".join(step) + "\n" for step in (*self.steps, *mended))


TRAINING = ("W1", "W2", "W3")
DEFENSES = ("krum", "multikrum", "geomed", "median", "trimmed_mean", "norm_clipping")
FLOWER_NEEDS = (
    *("ray==2.55.1", "grpcio>=1.70,<2", "grpcio-health-checking>=1.70,<2", "protobuf>=5.28,<7", "cryptography>=50,<51"),
    *("pycryptodome>=3.18,<4", "iterators>=0.0.2,<0.0.3", "typer>=0.13,<0.21", "tomli>=2.0.1,<3", "tomli-w>=1,<2"),
    *("pathspec>=1.0.4,<2", "prompt-toolkit>=3.0.52,<4", "rich>=14,<15", "pyyaml>=6.0.2,<7", "requests>=2.33,<3"),
    *("httpx>=0.28.1,<1", "click>=8,<9", "packaging>=24,<26", "sqlalchemy[asyncio]>=2.0.45,<3", "alembic>=1.18.1,<2"),
    *("uvicorn[standard]>=0.49,<0.50", "fastapi>=0.138,<0.139", "starlette>=1.3.1,<1.4"),
)
PEERS: dict[str, Peer] = {
    "pfl": Peer(
        *("pfl-research", "0.6.0", "pfl.model.pytorch", "run_pfl"),
        ((TORCH, NUMPY, "pfl[pytorch]==0.6.0"),),
        TRAINING,
    ),
    "fedjax": Peer(
        *("FedJAX", "0.0.17", "fedjax", "run_fedjax"),
        (("jax==0.4.38", "jaxlib==0.4.38", "dm-haiku==0.0.17", "optax==0.2.5", NUMPY, "fedjax==0.0.17"),),
        TRAINING,
    ),
    "byzfl": Peer(
        *("ByzFL", "0.0.11", "byzfl", "run_byzfl"),
        (
            (TORCH, NUMPY, "scipy==1.17.1", "matplotlib==3.11.2", "seaborn==0.13.2"),
            ("--no-deps", "byzfl==0.0.11"),
        ),
        DEFENSES,
        _without_torchvision,
    ),
    # ByzPy's bounds exclude this torch and numpy, but its defenses work with them; they need no torchvision.
    "byzpy": Peer(
        *("ByzPy", "0.1.4", "byzpy.aggregators", "run_byzpy"),
        ((TORCH, NUMPY, "matplotlib==3.11.2", "cloudpickle==3.1.2"), ("--no-deps", "byzpy==0.1.4")),
        DEFENSES,
    ),
    "fedlab": Peer(
        *("FedLab", "1.3.0", "fedlab.contrib.algorithm.fedavg", "run_fedlab"),
        (
            (TORCH, NUMPY, "pandas", "scikit-learn", "pillow", "pynvml", "tqdm==4.67.1"),
            ("--no-deps", "fedlab==1.3.0"),
        ),
        TRAINING,
        _without_torchvision,
    ),
    # It requires Python 3.14; with the patch it runs from 3.11 on.
    "blazefl": Peer(
        *("BlazeFL", "3.0.0", "blazefl.contrib.fedavg", "run_blazefl"),
        ((TORCH, NUMPY, "tqdm==4.67.1"), ("--no-deps", "--ignore-requires-python", "blazefl==3.0.0")),
        TRAINING,
        _for_older_pythons,
    ),
    # The imports of the simulation, pinned by hand: its own bounds require releases newer than itself.
    "flower": Peer(
        *("Flower", "1.42.0", "flwr.simulation", "run_flower"),
        ((TORCH, NUMPY, *FLOWER_NEEDS), ("--no-deps", "flwr==1.42.0")),
        TRAINING,
    ),
}


def folder() -> Path:
    """Return the folder of the environments: ``RFLBAT_PEERS``, else ``~/.cache/rflbat/peers``."""
    return Path(os.environ.get("RFLBAT_PEERS") or Path.home() / ".cache" / "rflbat" / "peers")


def python_of(peer: str) -> Path | None:
    """Return the Python of a peer's environment, or None if it is absent, incomplete or has other pins.

    Args:
        peer: a name of ``PEERS``; KeyError for any other.

    Example:
        >>> python_of("pfl") in (None, folder() / "pfl" / "bin" / "python")
        True
    """
    stamp, python = folder() / peer / STAMP, folder() / peer / "bin" / "python"
    if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == PEERS[peer].stamp:
        return python
    return None


def install(peer: str) -> Path:
    """Create a peer's environment, unless it is complete, and return its Python.

    Raises:
        subprocess.CalledProcessError: pip, the patch or the first import failed; the environment stays incomplete.
    """
    row, home = PEERS[peer], folder() / peer
    done = python_of(peer)
    if done is not None:
        return done
    subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
    python = home / "bin" / "python"
    for step in row.steps:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *step], check=True)
    if row.mend is not None:
        row.mend(python)
    subprocess.run([python, "-c", f"import {row.module}"], check=True)
    (home / STAMP).write_text(row.stamp, encoding="utf-8")
    return python


def main(arguments: Sequence[str] | None = None) -> None:
    """Install the named peers, or all, one after the other; a failure does not stop the others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.peers.environments", description=__doc__)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"some of {', '.join(PEERS)}; default all")
    names = parser.parse_args(arguments).peers or list(PEERS)
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        parser.error(f"unknown peer {unknown[0]!r}; known: {', '.join(PEERS)}")
    failed = []
    for name in names:
        try:
            print(f"{name}: {install(name)}", flush=True)
        except subprocess.CalledProcessError as error:
            failed.append(name)
            print(f"{name}: not installed, {error}", file=sys.stderr, flush=True)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
