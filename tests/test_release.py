"""The release: the sdist, the wheel that is built from it, and a run of that wheel outside of the checkout."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.test_house import files
from tests.test_packaging import ROOT, sources

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_{}(sys.argv[1]))"
GENERATED = ["docs/_build/x.html", "docs/methods/x.md", "tests/__pycache__/x.cpython-311.pyc", "runs/x/run.json"]
GENERATED += [".venv/bin/x", "build/x", "dist/x", ".pytest_cache/x", ".hypothesis/x", "engine/rflbat/x.pyc", "notes~"]


def build(kind: str, checkout: Path, out: Path) -> Path:
    """Build from a folder with what is installed here, without a network."""
    pytest.importorskip("setuptools", "77", reason="building needs setuptools 77 or newer")
    command = [sys.executable, "-W", "error", "-c", BUILD.format(kind), str(out)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist from a copy of the checkout with things in it that do not belong there."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in files():
        (copy / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / path.relative_to(ROOT))
    for name in GENERATED:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("no part of the project")
    return build("sdist", copy, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    [top] = folder.iterdir()
    assert sdist.name == f"{top.name}.tar.gz"
    return top


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", unpacked, tmp_path_factory.mktemp("wheel"))


def test_the_sdist_is_the_checkout(unpacked: Path) -> None:
    held = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    added = {name for name in held if name == "PKG-INFO" or name.startswith("rflbat.egg-info/")}
    assert held - added == {path.relative_to(ROOT).as_posix() for path in files()}
    for name in ("README.md", ".ci/run", "docs/images/report.png", "tests/oracles/defenses.py"):
        assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes()


def test_the_wheel_of_the_sdist_has_everything(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    web = {path.relative_to(ROOT / "engine").as_posix() for path in (ROOT / "engine/rflbat/report/web").iterdir()}
    assert {*sources(), *web, "rflbat/py.typed", "rflbat_kernels/py.typed"} <= held
    assert {name.partition("/")[0].partition("-")[0] for name in held} == {"rflbat", "rflbat_kernels"}
    told = {name.partition(".dist-info/")[2] for name in held if ".dist-info/" in name}
    assert told == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in a fresh environment that borrows its dependencies, not this package, from here."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin/python"
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel)]
    subprocess.run(command, check=True, timeout=120)
    [site] = folder.glob("lib/python*/site-packages")
    assert (site / "rflbat/py.typed").exists()
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def outside(folder: Path, command: list[str]) -> str:
    """Run a command in a folder with nothing of the checkout on its path, and without a network where that can be."""
    alone = ["unshare", "--net", "--map-root-user"]
    offline = sys.platform == "linux" and shutil.which("unshare") is not None
    if offline and subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0:
        command = [*alone, *command]
    kept = {name: text for name, text in os.environ.items() if name not in {"PYTHONPATH", "RFLBAT_DATA_DIR"}}
    done = subprocess.run(
        command,
        cwd=folder,
        env=kept,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_runs_the_demo_outside_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = "import rflbat, rflbat_kernels; print(rflbat.__file__, rflbat_kernels.__file__)"
    for file in outside(tmp_path, [str(installed / "bin/python"), "-W", "error", "-c", where]).split():
        assert Path(file).is_relative_to(installed)
    rflbat = str(installed / "bin/rflbat")
    said = outside(tmp_path, [rflbat, "run"])
    assert "round 30/30" in said
    run = tmp_path / "runs/digits-rflbat-0"
    assert (run / "summary.json").exists()
    if importlib.util.find_spec("plotly") and importlib.util.find_spec("jinja2"):
        assert (run / "report.html").stat().st_size > 4e6
    version = wheel_version(installed)
    assert outside(tmp_path, [rflbat, "--version"]).split() == ["rflbat", version]
    doctor = outside(tmp_path, [rflbat, "doctor"])
    assert "install it again" not in doctor
    assert outside(tmp_path, [rflbat, "show", "rflbat"]).count("\n") > 20


def wheel_version(installed: Path) -> str:
    [folder] = installed.glob("lib/python*/site-packages/rflbat-*.dist-info")
    return folder.name.removeprefix("rflbat-").removesuffix(".dist-info")


@pytest.mark.slow
def test_a_type_checker_sees_the_types_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="needs mypy")
    (tmp_path / "use.py").write_text(
        "import rflbat\nreveal_type(rflbat.run(rflbat.Experiment()).summary)\nrflbat.Experiment(rounds='many')\n"
    )
    command = [sys.executable, "-m", "mypy", "--python-executable", str(installed / "bin/python"), "use.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert re.search(r'Revealed type is "(builtins\.)?dict\[(builtins\.)?str, Any\]"', done.stdout)
    assert 'Argument "rounds" to "Experiment" has incompatible type "str"' in done.stdout
    assert "missing library stubs" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_all_extras_resolve_together(python: str, tmp_path: Path) -> None:
    """Against the package index, for Linux; uv reads metadata alone, pip might fetch gigabytes for it."""
    uv = Path(sysconfig.get_path("scripts")) / "uv"
    if not uv.exists():
        pytest.skip("uv is not here; it comes with rflbat[flower]")
    out = tmp_path / "resolved.txt"
    where = ["--python-version", python, "--python-platform", "linux", "--output-file", str(out)]
    command = [str(uv), "pip", "compile", "--quiet", "--all-extras", *where, str(ROOT / "setup.cfg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if "Could not connect" in done.stderr or "error sending request" in done.stderr:
        pytest.skip(f"no package index answers: {done.stderr[:200]}")
    assert done.returncode == 0, done.stderr
    names = {line.partition("==")[0] for line in out.read_text().splitlines() if "==" in line}
    assert {"torch", "cuml-cu13", "cupy-cuda13x", "flwr", "ray", "plotly", "tokenizers", "mlflow-skinny"} <= names
