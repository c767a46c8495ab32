"""Output of ``rflbat doctor``: versions, devices, packages, data; no downloads, and no failure on broken packages."""

import importlib.util
import re
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from rflbat.cli.doctor import EXTRAS, examine
from rflbat.cli.main import main
from rflbat.data import mnist
from rflbat.data.registry import DATASETS
from tests.engine.data.conftest import write_family

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*rest: object) -> None:
        pytest.fail("the doctor must not download")

    monkeypatch.setattr(mnist, "_download", download)
    monkeypatch.delenv("RFLBAT_DATA_DIR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "600")


def found(data_dir: Path | None = None) -> dict[str, tuple[bool, str]]:
    rows = examine(str(data_dir) if data_dir else None)
    assert len({what for what, _, _ in rows}) == len(rows)
    return {what: (there, line) for what, there, line in rows}


def test_versions_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = found()
    for package in ("torch", "torchvision", "numpy", "scikit-learn"):
        assert rows[package] == (True, version(package))
    assert rows["cpu"][0]
    assert f"{torch.get_num_threads()} threads" in rows["cpu"][1]
    assert rows["cuda"] == (False, "torch sees no CUDA device; everything runs on the CPU")
    assert rows["triton"][0] == (importlib.util.find_spec("triton") is not None)


def test_cuda_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a device")
    assert found()["cuda"] == (True, "a device")


def extras() -> dict[str, list[str]]:
    """The extras of setup.cfg, each with its lines."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return {name: lines.split("\n")[1:] for name, lines in setup["options.extras_require"].items()}


def distribution(folder: Path, name: str, number: str, wants: dict[str, list[str]] | None = None) -> None:
    """Write what pip leaves of a package, with extras that want others."""
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}"]
    for extra, wanted in (wants or {}).items():
        lines.append(f"Provides-Extra: {extra}")
        for line in wanted:
            requirement, _, marker = line.partition(";")
            also = f"({marker.strip()}) and " if marker else ""
            lines.append(f'Requires-Dist: {requirement}; {also}extra == "{extra}"')
    (folder / f"{name.replace('-', '_')}-{number}.dist-info").mkdir()
    (folder / f"{name.replace('-', '_')}-{number}.dist-info/METADATA").write_text("\n".join(lines) + "\n")


def test_every_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "rflbat", "9.9", extras())
    monkeypatch.syspath_prepend(tmp_path)
    rows = found()
    assert [what.removeprefix("extra: ") for what in rows if what.startswith("extra: ")] == list(EXTRAS)
    assert set(EXTRAS) == set(extras())
    for name, lines in extras().items():
        there, line = rows[f"extra: {name}"]
        lacking = 0
        for wanted in map(Requirement, lines):
            if wanted.marker and not wanted.marker.evaluate():
                assert wanted.name not in line
                continue
            try:
                number = version(wanted.name)
            except PackageNotFoundError:
                number = ""
            fits = wanted.specifier.contains(number, prereleases=True) if number else False
            lacking += not fits
            said = f"{wanted.name} {number}" if number else f"{wanted.name} is missing"
            assert re.search(rf"[:,] {re.escape(said)}({'[,;]|$' if fits or not number else ' is not '})", line)
        assert not (there and lacking)
        assert line.endswith(f"; pip install 'rflbat[{name}]'") == (not there)


def test_versions_of_extras_and_of_their_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wants = {
        "report": ["one-of-ours>=2", "another-of-ours>=3"],
        "ray": ["one-of-ours>=3,<4", "nobody-has-this>=1"],
        "flower": ["another-of-ours[inner]>=3"],
        "gpu": ['one-of-ours; platform_system == "Plan9"'],
    }
    distribution(tmp_path, "rflbat", "9.9", wants)
    distribution(tmp_path, "one-of-ours", "2.5")
    distribution(tmp_path, "another-of-ours", "3.0rc1", {"inner": ["nor-this>=1", "one-of-ours"]})
    monkeypatch.syspath_prepend(tmp_path)
    rows = found()
    assert rows["extra: report"][1].endswith(
        ": one-of-ours 2.5, another-of-ours 3.0rc1 is not >=3; pip install 'rflbat[report]'"
    )
    assert rows["extra: ray"][1].endswith(
        ": one-of-ours 2.5 is not <4,>=3, nobody-has-this is missing; pip install 'rflbat[ray]'"
    )
    assert rows["extra: gpu"] == (False, f"{EXTRAS['gpu']}: not for this system")
    assert "unknown to the installed rflbat" in rows["extra: docs"][1]
    (tmp_path / "another_of_ours-3.0rc1.dist-info").rename(tmp_path / "gone")
    distribution(tmp_path, "another-of-ours", "3.1", {"inner": ["nor-this>=1", "one-of-ours"]})
    rows = found()
    assert rows["extra: report"] == (True, f"{EXTRAS['report']}: one-of-ours 2.5, another-of-ours 3.1")
    assert rows["extra: flower"] == (
        False,
        f"{EXTRAS['flower']}: another-of-ours 3.1, one-of-ours 2.5, nor-this is missing; pip install 'rflbat[flower]'",
    )


def test_sources_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("rflbat.cli.doctor.version", missing)
    rows = found()
    for name in EXTRAS:
        assert not rows[f"extra: {name}"][0]
        assert "reinstall it" in rows[f"extra: {name}"][1]


def test_without_a_data_folder() -> None:
    rows = found()
    assert {what for what in rows if what.startswith("data: ")} == {f"data: {name}" for name in DATASETS}
    assert rows["data: digits"][0]
    for name in ("mnist", "fashion-mnist"):
        assert not rows[f"data: {name}"][0]
        assert "RFLBAT_DATA_DIR" in rows[f"data: {name}"][1]
        assert "--data-dir" in rows[f"data: {name}"][1]


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_data_folder(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_family(tmp_path / "mnist", mnist.MNIST.first_labels)
    write_family(tmp_path / "fashion-mnist", mnist.FASHION_MNIST.first_labels)
    (tmp_path / "fashion-mnist/t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01")
    if by == "environment":
        monkeypatch.setenv("RFLBAT_DATA_DIR", str(tmp_path))
    rows = found(tmp_path if by == "flag" else None)
    assert rows["data: mnist"] == (True, f"read from {tmp_path / 'mnist'}")
    assert not rows["data: fashion-mnist"][0]
    assert "t10k-labels-idx1-ubyte: ends inside its header" in rows["data: fashion-mnist"][1]


def test_flag_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_family(tmp_path / "one", mnist.MNIST.first_labels)
    monkeypatch.setenv("RFLBAT_DATA_DIR", str(tmp_path / "none"))
    assert found(tmp_path / "one")["data: mnist"] == (True, f"read from {tmp_path / 'one'}")


def test_command_prints_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--data-dir", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for what, there, line in examine(str(tmp_path)):
        assert re.search(rf"^{'yes' if there else 'no '} +{re.escape(what)} +{re.escape(line)} *$", out, re.MULTILINE)


def test_a_narrow_terminal_cuts_nothing_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    folder = tmp_path / ("a" * 90)
    write_family(folder / "mnist", mnist.MNIST.first_labels)
    assert main(["doctor", "--data-dir", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    assert out.count("a") >= 90
    assert str(folder / "mnist") in "".join(line.strip() for line in out.splitlines())
