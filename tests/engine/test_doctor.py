"""What `rflbat doctor` finds: versions, devices, packages, data; it downloads nothing and survives what is broken."""

import importlib.util
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from rflbat.cli import main
from rflbat.data import mnist
from rflbat.data.registry import DATASETS
from rflbat.doctor import examine
from tests.engine.data.conftest import write_family


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*rest: object) -> None:
        pytest.fail("the doctor must not download")

    monkeypatch.setattr(mnist, "_download", download)
    monkeypatch.delenv("RFLBAT_DATA_DIR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "400")


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
    for package in ("triton", "cupy", "cuml"):
        assert rows[package][0] == (importlib.util.find_spec(package) is not None)


def test_cuda_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a device")
    assert found()["cuda"] == (True, "a device")


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
