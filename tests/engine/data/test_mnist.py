"""MNIST on the real files where RFLBAT_DATA_DIR names them; the lookup and every mistake on small synthetic files."""

import functools
import gzip
import hashlib
import http.server
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from rflbat.data import mnist
from rflbat.data.mnist import FASHION_MNIST, MNIST, Family, load
from rflbat.data.partition import partition
from rflbat.errors import UserError
from tests.engine.data.conftest import idx_bytes, write_family

BOTH = pytest.mark.parametrize("family", [MNIST, FASHION_MNIST], ids=lambda family: family.name)
WRITERS = "qmnist-train-labels-idx2-int"


@pytest.fixture(scope="module")
def data_dir() -> Path:
    named = os.environ.get("RFLBAT_DATA_DIR")
    if not named:
        pytest.skip("RFLBAT_DATA_DIR is unset: it names the folder that holds mnist/ and mnist_writers/")
    return Path(named)


def error_of(data_dir: Path | None, family: Family = MNIST) -> str:
    with pytest.raises(UserError) as caught:
        load(data_dir, family)
    message = str(caught.value)
    assert "\n" not in message
    assert family.origin in message or "qmnist" in message
    return message


def write_writers(folder: Path, labels: np.ndarray, *, packed: bool = True) -> np.ndarray:
    """QMNIST's extended labels in the real layout; the writer ids are made up."""
    folder.mkdir(parents=True, exist_ok=True)
    table = np.zeros((len(labels), 8), dtype=np.int32)
    table[:, 0] = labels
    table[:, 2] = 1000 + np.arange(len(labels)) % 7
    content = idx_bytes(table)
    (folder / f"{WRITERS}{'.gz' * packed}").write_bytes(gzip.compress(content) if packed else content)
    return table[:, 2]


# The real files.


def test_real_mnist_is_what_it_is_known_to_be(data_dir: Path) -> None:
    mnist = load(data_dir)
    assert mnist.train_x.shape == (60000, 1, 28, 28)
    assert mnist.test_x.shape == (10000, 1, 28, 28)
    assert mnist.train_x.dtype == torch.uint8
    assert mnist.train_x.untyped_storage().nbytes() == 60000 * 784
    assert mnist.train_y[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.test_y[:5].tolist() == [7, 2, 1, 0, 4]
    train_counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test_counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert torch.bincount(mnist.train_y).tolist() == train_counts
    assert torch.bincount(mnist.test_y).tolist() == test_counts
    pixels = mnist.train_x.double() / 255
    assert float(pixels.mean()) == pytest.approx(0.1307, abs=5e-5)
    assert float(pixels.std()) == pytest.approx(0.3081, abs=5e-5)
    assert Path(mnist.source).resolve() == (data_dir / "mnist").resolve()


def test_real_writers_make_a_natural_partition(data_dir: Path) -> None:
    mnist = load(data_dir / "mnist")  # found beside the folder of the images
    assert mnist.train_writers is not None
    writers = mnist.train_writers.numpy()
    counts = np.unique(writers, return_counts=True)[1]
    assert [len(counts), counts.min(), counts.max(), int(np.median(counts))] == [539, 19, 131, 116]
    parts = partition("natural", mnist.train_y.numpy(), 539, 1.0, np.random.default_rng(0), writers)
    assert sum(map(len, parts)) == 60000
    assert all(len(set(writers[part])) == 1 for part in parts)


def test_real_mnist_is_not_taken_for_fashion_mnist(data_dir: Path) -> None:
    assert "holds MNIST, not Fashion-MNIST" in error_of(data_dir / "mnist", FASHION_MNIST)


def test_real_mnist_through_torchvisions_own_download(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The whole download, MD5 sums and progress bar included, from a mirror on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(_SilentHandler, directory=data_dir / "mnist")
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
            fetched = load()
        finally:
            server.shutdown()
            thread.join()
    assert capfd.readouterr() == ("", "")
    assert fetched.source == str(tmp_path / "cache/rflbat/MNIST/raw")
    assert torch.equal(fetched.train_x, load(data_dir).train_x)
    assert fetched.train_writers is None


class _SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


# Where the files are looked for. Pixels are synthetic from here on.


@BOTH
@pytest.mark.parametrize("packed", [False, True])
def test_files_are_found_in_each_place(tmp_path: Path, family: Family, packed: bool) -> None:
    for number, place in enumerate(("", *family.folders)):
        root = tmp_path / str(number)
        images, labels = write_family(root / place, family.first_labels, packed=packed)
        read = load(root, family)
        assert read.name == family.name
        assert read.source == str(root / place)
        assert read.train_x.dtype == torch.uint8
        np.testing.assert_array_equal(read.train_x.numpy()[:, 0], images)
        np.testing.assert_array_equal(read.train_y.numpy(), labels)
        assert read.test_x.shape == (21, 1, 28, 28)
        assert read.train_writers is None


def test_the_folder_itself_comes_before_the_folders_below(tmp_path: Path) -> None:
    write_family(tmp_path / "mnist", MNIST.first_labels, train=21)
    write_family(tmp_path / "MNIST/raw", MNIST.first_labels, train=22)
    assert len(load(tmp_path).train_y) == 21
    write_family(tmp_path, MNIST.first_labels, train=23)
    assert len(load(tmp_path).train_y) == 23


def test_the_two_families_lie_side_by_side(tmp_path: Path) -> None:
    write_family(tmp_path / "mnist", MNIST.first_labels)
    write_family(tmp_path / "fashion-mnist", FASHION_MNIST.first_labels)
    assert tuple(load(tmp_path, MNIST).train_y[:10].tolist()) == MNIST.first_labels
    assert tuple(load(tmp_path, FASHION_MNIST).train_y[:10].tolist()) == FASHION_MNIST.first_labels


def test_the_name_inside_the_original_gzip_is_known(tmp_path: Path) -> None:
    write_family(tmp_path, MNIST.first_labels)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))
    assert len(load(tmp_path).train_y) == 63


def test_a_relative_folder_and_a_home_folder_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, labels = write_family(tmp_path / "home/sets/mnist", MNIST.first_labels)
    write_writers(tmp_path / "home/sets/mnist_writers", labels)
    assert load(Path("~/sets")).train_writers is not None
    monkeypatch.chdir(tmp_path / "home/sets/mnist")
    assert load(Path(".")).train_writers is not None


# Writers.


@pytest.mark.parametrize("place", ["", "mnist_writers"])
@pytest.mark.parametrize("packed", [False, True])
def test_writers_are_read_where_they_lie(tmp_path: Path, place: str, packed: bool) -> None:
    _, labels = write_family(tmp_path / "mnist", MNIST.first_labels)
    writers = write_writers(tmp_path / place, labels, packed=packed)
    read = load(tmp_path).train_writers
    assert read is not None
    assert read.dtype == torch.int64
    assert read.tolist() == writers.tolist()


def test_writers_of_mnist_are_not_those_of_fashion_mnist(tmp_path: Path) -> None:
    _, labels = write_family(tmp_path / "fashion-mnist", FASHION_MNIST.first_labels)
    write_writers(tmp_path / "mnist_writers", labels)
    assert load(tmp_path, FASHION_MNIST).train_writers is None


def test_writers_of_other_images_are_refused(tmp_path: Path) -> None:
    _, labels = write_family(tmp_path / "mnist", MNIST.first_labels)
    write_writers(tmp_path / "mnist_writers", labels[::-1])
    assert "its rows describe other images" in error_of(tmp_path)
    write_writers(tmp_path / "mnist_writers", labels[1:])
    assert "holds an array of shape (62, 8), expected (63, 8)" in error_of(tmp_path)


# Mistakes.


@BOTH
def test_missing_files_name_the_place_and_the_source(tmp_path: Path, family: Family) -> None:
    advice = f"put them in {tmp_path}/{family.folders[0]}"
    assert (message := error_of(tmp_path, family)).startswith(f"{tmp_path}: holds no {family.title}")
    assert advice in message
    assert error_of(tmp_path / "absent", family).startswith(f"{tmp_path / 'absent'}: there is no such folder")
    write_family(tmp_path / family.folders[0], family.first_labels, packed=True)
    (tmp_path / family.folders[0] / "t10k-images-idx3-ubyte.gz").unlink()
    message = error_of(tmp_path, family)
    assert message.startswith(f"{tmp_path / family.folders[0]}: t10k-images-idx3-ubyte not found")
    assert advice in message


def test_one_family_is_not_taken_for_the_other(tmp_path: Path) -> None:
    write_family(tmp_path / "mnist", FASHION_MNIST.first_labels)
    assert "holds Fashion-MNIST, not MNIST" in error_of(tmp_path, MNIST)


@pytest.mark.parametrize(
    ("name", "array", "what"),
    [
        ("train-images-idx3-ubyte", np.zeros((63, 32, 32), np.uint8), "shape (63, 32, 32), expected (n, 28, 28)"),
        ("train-images-idx3-ubyte", np.zeros(63, np.uint8), "shape (63,), expected (n, 28, 28)"),
        ("t10k-labels-idx1-ubyte", np.zeros(20, np.uint8), "shape (20,), expected (21,) for the images in t10k-images"),
        ("train-labels-idx1-ubyte", np.full(63, 10, np.uint8), "holds the label 10; allowed: 0 to 9"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path: Path, name: str, array: np.ndarray, what: str) -> None:
    write_family(tmp_path, MNIST.first_labels)
    (tmp_path / name).write_bytes(idx_bytes(array))
    message = error_of(tmp_path)
    assert message.startswith(f"{tmp_path / name}: ")
    assert what in message


def test_a_damaged_file_is_named_with_where_to_get_it(tmp_path: Path) -> None:
    write_family(tmp_path, MNIST.first_labels, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1001])
    message = error_of(tmp_path)
    assert message.startswith(f"{path}: its gzip data is damaged or cut short")
    assert "get the four IDX files from yann.lecun.com/exdb/mnist or torchvision" in message


# Download: torchvision's own `download` is replaced, so nothing here touches a network.


@BOTH
def test_no_network_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], family: Family
) -> None:
    def no_network(self: object) -> None:
        sys.stdout.write("Downloading ...")
        raise URLError("Name or service not known")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", no_network)
    message = error_of(None, family)
    assert message.startswith(f"{family.title} is not in {tmp_path / 'cache/rflbat'} and could not be downloaded (")
    assert "Name or service not known>; no network?" in message
    assert f"put them in DIR/{family.folders[0]}, where DIR is the data folder (--data-dir)" in message
    assert capfd.readouterr() == ("", "")


def test_addresses_that_torchvision_tried_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str, *args: object, **kwargs: object) -> None:
        raise URLError("Network is unreachable")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", unreachable)
    message = error_of(None)
    assert "could not be downloaded (Error downloading train-images-idx3-ubyte.gz; no network?)" in message
    assert "://" not in message


def write_download(folder: str, family: Family) -> Family:
    """Write torchvision's four packed files; return the family with their SHA-256."""
    write_family(Path(folder), family.first_labels, packed=True)
    for path in list(Path(folder).iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    sums = [hashlib.sha256((Path(folder) / f"{stem}.gz").read_bytes()).hexdigest() for stem in mnist._STEMS]
    return replace(family, sha256=tuple(sums))


@BOTH
def test_download_is_silent_made_once_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], family: Family
) -> None:
    roots: list[str] = []
    known = write_download(str(tmp_path / "sums"), family)

    def download(self: torchvision.datasets.MNIST) -> None:
        sys.stdout.write("Extracting ...")
        sys.stderr.write("100%|####|")
        roots.append(self.raw_folder)
        write_download(self.raw_folder, family)

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    first, second = load(None, known), load(None, known)
    cache = tmp_path / "cache/rflbat"
    raw = cache / family.torchvision / "raw"
    assert len(roots) == 1
    assert Path(roots[0]).parents[2] == cache  # a folder of another name
    assert not Path(roots[0]).exists()
    assert first.source == str(raw)
    assert torch.equal(first.train_x, second.train_x)
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in cache.iterdir()] == [family.torchvision]
    assert {path.name for path in raw.iterdir()} == set(mnist._STEMS)


@pytest.mark.parametrize("stem", mnist._STEMS)
def test_a_download_of_another_sha256_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stem: str) -> None:
    known = write_download(str(tmp_path / "sums"), MNIST)

    def download(self: torchvision.datasets.MNIST) -> None:
        write_download(self.raw_folder, MNIST)
        path = Path(self.raw_folder) / f"{stem}.gz"
        path.write_bytes(path.read_bytes() + b"\0")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    with pytest.raises(UserError, match=rf"^MNIST: the downloaded {stem}\.gz has SHA-256 \w{{64}}, expected \w{{64}};"):
        load(None, known)
    assert list((tmp_path / "cache/rflbat").iterdir()) == []


def test_what_an_interrupted_download_left_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "cache/rflbat/MNIST/raw"
    write_family(raw, MNIST.first_labels)
    (raw / "t10k-labels-idx1-ubyte").rename(raw / "t10k-labels-idx1-ubyte.gz")
    known = write_download(str(tmp_path / "sums"), MNIST)
    calls: list[str] = []

    def download(self: torchvision.datasets.MNIST) -> None:
        calls.append(self.raw_folder)
        write_download(self.raw_folder, MNIST)

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    assert len(load(None, known).test_y) == 21
    assert len(calls) == 1


def test_a_damaged_download_says_that_it_may_be_deleted(tmp_path: Path) -> None:
    raw = tmp_path / "cache/rflbat/MNIST/raw"
    write_family(raw, MNIST.first_labels)
    path = raw / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    message = error_of(None)
    assert message.startswith(f"{path}: ")
    assert "delete it to have it downloaded again" in message


@pytest.mark.parametrize("value", [None, "", "relative"])
def test_without_a_usable_xdg_folder_the_cache_is_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    raw = tmp_path / "home/.cache/rflbat/MNIST/raw"
    write_family(raw, MNIST.first_labels)
    assert load().source == str(raw)
