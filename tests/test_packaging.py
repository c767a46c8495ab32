"""The installation matches the folders: the package list, the built wheel, dependencies and the public names."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

import rflbat
import rflbat_kernels

ROOT = Path(__file__).parents[1]
ROOTS = {"rflbat": ROOT / "engine", "rflbat_kernels": ROOT / "kernels"}
DISTRIBUTIONS = {"sklearn": "scikit-learn", "triton": "torch", "mlflow": "mlflow-skinny"}
"""Distribution of a module of another name. Triton comes with torch's Linux builds, and is imported when chosen."""


def setup() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def sources() -> dict[str, Path]:
    """Every module of both packages: its path in the wheel, and its location."""
    return {
        path.relative_to(root).as_posix(): path
        for name, root in ROOTS.items()
        for path in (root / name).rglob("*.py")
        if "__pycache__" not in path.parts
    }


def test_listed_packages_are_the_folders() -> None:
    listed = setup()["options"]["packages"].split()
    assert sorted(listed) == sorted({str(Path(name).parent).replace("/", ".") for name in sources()})
    assert [name for name in listed if f"{name.replace('.', '/')}/__init__.py" not in sources()] == []


def test_dependencies_are_declared() -> None:
    options = setup()
    declared = options["options"]["install_requires"] + "".join(options["options.extras_require"].values())
    known = {re.split(r"[<>=;\[ ]", line)[0].lower() for line in declared.splitlines() if line}
    used = set()
    for path in sources().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                used.add(node.module.partition(".")[0])
    foreign = used - set(sys.stdlib_module_names) - set(ROOTS)
    assert {DISTRIBUTIONS.get(name, name) for name in foreign} <= known


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel from a copy of the sources, with what is installed here and without a network."""
    pytest.importorskip("setuptools", "77", reason="building a wheel needs setuptools 77 or newer")
    pytest.importorskip("pip", reason="building a wheel needs pip")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    for name in ("engine", "kernels"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(out), str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [path] = out.iterdir()
    return zipfile.ZipFile(path)


def test_wheel_holds_all_sources_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name and not name.endswith("/")}
    operations = {str(Path(name).parent) for name in sources() if name.endswith("/naive.py")}
    assert len(operations) >= 5
    pages = {f"{operation}/README.md" for operation in operations}
    web = {path.relative_to(ROOT / "engine").as_posix() for path in (ROOT / "engine/rflbat/report/web").iterdir()}
    assert len(web) >= 5
    assert held == {*sources(), "rflbat/py.typed", "rflbat_kernels/py.typed", *pages, *web}


def test_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    told = {Path(name).name: name for name in wheel.namelist() if ".dist-info/" in name}
    assert "rflbat = rflbat.cli.main:main" in wheel.read(told["entry_points.txt"]).decode()
    assert "LICENSE" in told
    metadata, _, description = wheel.read(told["METADATA"]).decode().partition("\n\n")
    assert "\nRequires-Python: >=3.11\n" in metadata
    assert re.search(r"^License(-Expression)?: Apache-2.0$", metadata, re.MULTILINE)
    assert description.strip()


@pytest.mark.parametrize("package", [rflbat, rflbat_kernels])
def test_public_names(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert len(names) == len(set(names)) <= 32
    assert all(getattr(package, name) is not None for name in names)


def test_entry_point_exists() -> None:
    target = setup()["options.entry_points"]["console_scripts"].partition("=")[2].strip()
    module, _, function = target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
