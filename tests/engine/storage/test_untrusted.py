"""Opening untrusted files: allowed locations, kinds and sizes, for every loader."""

import gzip
import io
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rflbat.data import amazon, femnist, imdb, mnist
from rflbat.errors import UserError
from rflbat.storage import untrusted
from rflbat.storage.tensors import load_tensors, save_tensors
from rflbat.storage.untrusted import open_regular, read_bounded, unpacked
from tests.engine.data.conftest import write_family
from tests.engine.data.leaf_files import write_femnist
from tests.engine.data.test_amazon import rows_of, write
from tests.engine.data.test_imdb import write_archive, write_table

Load = Callable[[Path], object]


def write_mnist(folder: Path) -> None:
    write_family(folder, mnist.MNIST.first_labels, packed=True)


def write_reviews(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "Reviews.csv.gz", rows_of(), packed=True)


def write_texts(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.txt").write_text("".join(f"text {number}\n" for number in range(20)))
    (folder / "labels.txt").write_text("".join(f"{number % 5 + 1}\n" for number in range(20)))


LOADERS: dict[str, tuple[Load, Callable[[Path], object], str, str]] = {
    "mnist": (mnist.load, write_mnist, "mnist", "train-images-idx3-ubyte.gz"),
    "mnist labels": (mnist.load, write_mnist, "mnist", "t10k-labels-idx1-ubyte.gz"),
    "femnist": (femnist.load, write_femnist, "femnist", "leaf_test.json"),
    "amazon": (amazon.load, write_reviews, "amazon", "Reviews.csv.gz"),
    "amazon texts": (amazon.load, write_texts, "amazon", "texts.txt"),
    "amazon labels": (amazon.load, write_texts, "amazon", "labels.txt"),
    "imdb": (imdb.load, write_table, "imdb", "imdb.csv.gz"),
    "imdb archive": (imdb.load, write_archive, "imdb", "aclImdb/test/neg/0_3.txt"),
}
every_loader = pytest.mark.parametrize(("load", "fill", "folder", "name"), LOADERS.values(), ids=LOADERS)


def refusal_of(load: Load, data_dir: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(data_dir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Allowed locations of files.


@every_loader
@pytest.mark.parametrize("relative", [False, True])
def test_a_file_that_leads_out_of_the_data_folder_is_refused(
    tmp_path: Path, load: Load, fill: Callable[[Path], object], folder: str, name: str, relative: bool
) -> None:
    fill(tmp_path / "data" / folder)
    path = tmp_path / "data" / folder / name
    kept = path.rename(tmp_path / path.name)
    path.symlink_to(os.path.relpath(kept, path.parent) if relative else kept)
    message = refusal_of(load, tmp_path / "data")
    assert message.startswith(f"{path}: cannot be read (it leads out of the data folder {tmp_path / 'data'}, to ")


@every_loader
def test_a_folder_that_leads_out_of_the_data_folder_is_refused(
    tmp_path: Path, load: Load, fill: Callable[[Path], object], folder: str, name: str
) -> None:
    fill(tmp_path / "elsewhere")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / folder).symlink_to("../elsewhere")
    assert f"it leads out of the data folder {tmp_path / 'data'}, to " in refusal_of(load, tmp_path / "data")


@every_loader
def test_the_data_folder_may_be_a_link_and_links_may_stay_in_it(
    tmp_path: Path, load: Load, fill: Callable[[Path], object], folder: str, name: str
) -> None:
    fill(tmp_path / "real" / folder)
    (tmp_path / "data").symlink_to("real")
    load(tmp_path / "data")
    path = tmp_path / "real" / folder / name
    kept = path.rename(tmp_path / "real" / f"kept-{path.name}")
    path.symlink_to(os.path.relpath(kept, path.parent))
    load(tmp_path / "data")
    load(tmp_path / "data" / ".." / "data")


def test_writers_of_mnist_that_lead_out_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path / "data/mnist")
    (tmp_path / "data/mnist_writers").mkdir()
    (tmp_path / "secret").write_text("")
    (tmp_path / "data/mnist_writers/qmnist-train-labels-idx2-int").symlink_to(tmp_path / "secret")
    assert "it leads out of the data folder" in refusal_of(mnist.load, tmp_path / "data")
    assert "it leads out of the data folder" in refusal_of(mnist.load, tmp_path / "data/mnist")


def test_a_link_to_itself_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with (
        pytest.raises(UserError, match=r"cannot be read \(Too many levels of symbolic links\)"),
        unpacked(tmp_path / "loop", 9),
    ):
        pass


# Of what kind.


def test_a_pipe_and_a_device_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(UserError, match=r"cannot be read \(not a regular file\)"), unpacked(path, 9):
            pass
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(path)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


@every_loader
def test_a_pipe_in_place_of_a_file_is_not_waited_for(
    tmp_path: Path, load: Load, fill: Callable[[Path], object], folder: str, name: str
) -> None:
    fill(tmp_path / folder)
    (tmp_path / folder / name).unlink()
    os.mkfifo(tmp_path / folder / name)
    refusal_of(load, tmp_path)


# How large.


def gzip_of_zeros(path: Path, mebibytes: int, start: bytes = b"") -> None:
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(start)
        for _ in range(mebibytes):
            file.write(bytes(2**20))


def test_a_whole_file_that_should_be_small(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    assert read_bounded(tmp_path / "file", 4) == b"1234"
    with pytest.raises(ValueError, match="it has more than 3 bytes"):
        read_bounded(tmp_path / "file", 3)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_may_have_so_many_bytes(tmp_path: Path, packed: bool) -> None:
    path, content = tmp_path / "file", bytes(range(101))
    path.write_bytes(gzip.compress(content) if packed else content)
    with unpacked(path, 101) as stream:
        assert stream.read() == content
    refused = "more than 100 bytes" if packed else "has 101 bytes; allowed: at most 100"
    with pytest.raises(UserError, match=refused), unpacked(path, 100) as stream:
        stream.read()


def test_gzip_may_grow_two_hundredfold_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "_FREE", 100)
    path = tmp_path / "bomb.gz"
    gzip_of_zeros(path, 1)
    limit, pieces = 200 * path.stat().st_size, []
    assert limit < 2**20
    refused = rf"bomb.gz: unpacks to more than {limit} bytes: not such a file, or a decompression bomb"
    with pytest.raises(UserError, match=refused), unpacked(path, 2**40) as stream:
        pieces.extend(iter(lambda: stream.read(1000), b""))
    read = len(b"".join(pieces))
    assert limit - 2**14 <= read <= limit  # blocks are read ahead


def test_a_bomb_of_each_loader_takes_neither_memory_nor_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 MiB of zeros, or of blanks that every parser of JSON skips, in 24 kB, where 2 MiB are free."""
    monkeypatch.setattr(untrusted, "_FREE", 2**21)
    write_mnist(tmp_path / "mnist")
    write_femnist(tmp_path / "femnist", end=".json.gz")
    write_reviews(tmp_path / "amazon")
    header = (0x0803).to_bytes(4, "big") + b"".join(size.to_bytes(4, "big") for size in (2**18, 28, 28))
    gzip_of_zeros(tmp_path / "mnist/train-images-idx3-ubyte.gz", 24, header)
    gzip_of_zeros(tmp_path / "amazon/Reviews.csv.gz", 24, b"Score,Text\n")
    with gzip.open(tmp_path / "femnist/leaf_test.json.gz", "wb", compresslevel=9) as file:
        for _ in range(24):
            file.write(b" " * 2**20)
    for load in (mnist.load, femnist.load, amazon.load):
        tracemalloc.start()
        try:
            message = refusal_of(load, tmp_path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert "bytes: not such a file, or a decompression bomb" in message
        assert peak < 2**24  # of which the table of texts is the most: it is looked at in lines of 16 MiB


def test_bombs_in_bombs_and_zip_archives_are_no_data(tmp_path: Path) -> None:
    """Only one layer of gzip is ever unpacked, and nothing of a zip archive."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../Reviews.csv", bytes(2**24))
    layered = gzip.compress(gzip.compress(bytes(2**24)))
    write_mnist(tmp_path / "mnist")
    write_femnist(tmp_path / "femnist")
    write_reviews(tmp_path / "amazon")
    paths = ["mnist/train-images-idx3-ubyte.gz", "femnist/leaf_test.json", "amazon/Reviews.csv.gz"]
    for load, name in zip((mnist.load, femnist.load, amazon.load), paths, strict=True):
        for content in (archive.getvalue(), layered):
            (tmp_path / name).write_bytes(content)
            assert str(tmp_path / name) in refusal_of(load, tmp_path)
    assert not (tmp_path.parent / "Reviews.csv").exists()


# The cache of FEMNIST is stored beside untrusted files and could be forged.


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("train_writers"),
        lambda tensors: tensors.update(more=tensors["test_y"]),
        lambda tensors: tensors.update(train_y=tensors["train_y"] + 62),
        lambda tensors: tensors.update(train_y=tensors["train_y"] - 62),
        lambda tensors: tensors.update(train_y=tensors["train_y"].float()),
        lambda tensors: tensors.update(test_x=tensors["test_x"].float()),
        lambda tensors: tensors.update(test_x=tensors["test_x"][1:]),
        lambda tensors: tensors.update(test_x=tensors["test_x"][:, :, 1:]),
        lambda tensors: tensors.update({name: tensors[name].float() for name in ("train_x", "test_x")}),
        lambda tensors: tensors.update(train_writers=tensors["train_writers"][1:]),
        lambda tensors: tensors.update(train_writers=-1 - tensors["train_writers"]),
        lambda tensors: tensors.update({name: tensor[:0] for name, tensor in tensors.items()}),
    ],
)
def test_a_cache_that_holds_anything_else_is_parsed_again(
    tmp_path: Path, change: Callable[[dict[str, object]], object]
) -> None:
    write_femnist(tmp_path)
    first = femnist.load(tmp_path)
    (cache,) = tmp_path.glob("femnist-*.safetensors")
    tensors, meta = load_tensors(cache)
    change(tensors)
    save_tensors(cache, tensors, meta)
    second = femnist.load(tmp_path)
    assert second.train_y.tolist() == first.train_y.tolist()
    assert second.test_x.dtype == first.test_x.dtype
    assert load_tensors(cache)[0].keys() == femnist._parse(tmp_path, *femnist._find(tmp_path)).keys()
