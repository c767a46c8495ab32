from pathlib import Path

import pytest
import torch

from rflbat.data.mnist import FASHION_MNIST, MNIST
from rflbat.data.registry import DATASETS, load
from rflbat.errors import UserError
from tests.engine.data.conftest import write_family
from tests.engine.data.leaf_files import write_femnist


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder with small MNIST, Fashion-MNIST and FEMNIST files of synthetic pixels, and made-up texts."""
    for family in (MNIST, FASHION_MNIST):
        write_family(tmp_path / family.folders[0], family.first_labels)
    write_femnist(tmp_path / "femnist")
    (tmp_path / "texts.txt").write_text("\n".join("abcdefghij"))
    (tmp_path / "labels.txt").write_text("\n".join("1122334455"))
    rows = [f"{part},{label},{part} {label}" for part in ("train", "test") for label in (0, 1)]
    (tmp_path / "imdb.csv").write_text("\n".join(["split,label,text", *rows]))
    return tmp_path


def test_the_names_are_those_of_the_command_line() -> None:
    assert list(DATASETS) == ["digits", "mnist", "fashion-mnist", "femnist", "amazon", "imdb"]


@pytest.mark.parametrize("name", DATASETS)
def test_every_row_keeps_the_contract_of_a_dataset(name: str, data_dir: Path) -> None:
    dataset = load(name, data_dir)
    assert dataset.name == name
    for x, y in ((dataset.train_x, dataset.train_y), (dataset.test_x, dataset.test_y)):
        assert x.shape == (len(y), *dataset.shape)
        assert x.dtype in ((torch.uint8, torch.float32) if dataset.words is None else (torch.int32,))
        assert x.is_contiguous()
        assert y.dtype == torch.int64
        assert 0 <= int(y.min()) <= int(y.max()) < dataset.classes
    if dataset.words is None:
        ends = [float(end) * dataset.scale + dataset.offset for end in dataset.train_x.aminmax()]
        assert sorted(ends) == pytest.approx(sorted((dataset.low, dataset.high)))
    else:
        assert 0 <= int(dataset.train_x.min()) <= int(dataset.train_x.max()) < len(dataset.words)
        assert dataset.encode is not None
    assert dataset.model
    assert dataset.source


@pytest.mark.parametrize(
    ("name", "hint"),
    [("fashion_mnist", "; did you mean 'fashion-mnist'?"), ("Digits", "; did you mean 'digits'?"), ("imagenet", "")],
)
def test_unknown_name_is_one_line_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        load(name)
    assert str(caught.value) == f"unknown data set {name!r}{hint}; known: {', '.join(DATASETS)}"
