"""FEMNIST on the real files where RFLBAT_DATA_DIR names them; lookup and mistakes on small synthetic files."""

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rflbat.data.base import as_inputs
from rflbat.data.femnist import load
from rflbat.data.partition import partition
from rflbat.errors import UserError
from tests.engine.data.leaf_files import (
    Users,
    assert_same,
    caches,
    document,
    forbid_parsing,
    make_users,
    write_femnist,
    write_json,
)


def error_of(data_dir: Path | None) -> str:
    with pytest.raises(UserError) as caught:
        load(data_dir)
    message = str(caught.value)
    assert "\n" not in message
    assert "github.com/TalwalkarLab/leaf" in message
    return message


# The real files: copied into a folder of the test, so that the cache is written there and not beside them.


def test_real_femnist_is_what_it_is_known_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = os.environ.get("RFLBAT_DATA_DIR")
    if not named:
        pytest.skip("RFLBAT_DATA_DIR is unset: it names the folder that holds femnist_leaf/")
    (tmp_path / "femnist_leaf").mkdir()
    for name in ("leaf_train.json.gz", "leaf_test.json.gz"):
        shutil.copy(Path(named) / "femnist_leaf" / name, tmp_path / "femnist_leaf")
    read = load(tmp_path)
    assert read.train_x.shape == (41258, 1, 28, 28)
    assert read.test_x.shape == (4700, 1, 28, 28)
    assert read.train_x.dtype == read.test_x.dtype == torch.uint8
    assert read.train_x.untyped_storage().nbytes() == 41258 * 784
    counts = torch.bincount(torch.cat([read.train_y, read.test_y]), minlength=62)
    assert (counts > 0).all()
    assert [int(counts[part].sum()) for part in (slice(10), slice(10, 36), slice(36, 62))] == [32531, 6780, 6647]
    assert read.train_writers is not None
    sizes = torch.bincount(read.train_writers)
    assert [len(sizes), int(sizes.min()), int(sizes.max()), int((sizes >= 100).sum())] == [300, 2, 319, 265]
    x = as_inputs(read.train_x, read)
    assert float(x.median()) == read.low == 0.0
    assert float(x[:, 0, 0, 0].mean()) < 0.01
    assert float(x.max()) == read.high == 1.0
    parts = partition("natural", read.train_y.numpy(), 300, 1.0, np.random.default_rng(0), read.train_writers.numpy())
    assert [len(part) for part in parts] == sizes.tolist()
    forbid_parsing(monkeypatch)
    assert_same(load(tmp_path), read)


# Reading. Pixels below are synthetic.


def expected(users: Users) -> tuple[np.ndarray, list[int]]:
    """All samples in the order of user names, the pixels as float64."""
    x = [image for user in sorted(users) for image in users[user]["x"]]
    return np.array(x).reshape(-1, 1, 28, 28), [label for user in sorted(users) for label in users[user]["y"]]


@pytest.mark.parametrize("end", [".json", ".json.gz"])
@pytest.mark.parametrize("place", ["", "femnist", "femnist_leaf"])
def test_files_are_found_in_each_place(tmp_path: Path, end: str, place: str) -> None:
    train, test = write_femnist(tmp_path / place, end=end)
    read = load(tmp_path)
    assert (read.name, read.source, read.model) == ("femnist", str(tmp_path / place), "cnn")
    assert (read.classes, read.shape, read.low, read.high) == (62, (1, 28, 28), 0.0, 1.0)
    assert (read.scale, read.offset) == (-1 / 255, 1.0)
    for users, stored, labels in ((train, read.train_x, read.train_y), (test, read.test_x, read.test_y)):
        x, y = expected(users)
        assert stored.dtype == torch.uint8
        assert stored.is_contiguous()
        np.testing.assert_array_equal(stored.numpy() / 255, x)
        assert labels.tolist() == y
    assert read.train_writers is not None
    assert read.train_writers.dtype == torch.int64
    assert read.train_writers.tolist() == [1, 1, 1, 1, 2, 2, 3, 3, 3]  # e9 has test samples only


def test_ink_is_1_unless_the_polarity_of_leaf_is_asked_for(tmp_path: Path) -> None:
    """Background 0 and ink 1, as MNIST; the files hold the opposite."""
    train, _ = write_femnist(tmp_path)
    values = expected(train)[0].astype(np.float32)
    ink, leaf = load(tmp_path), load(tmp_path, polarity="leaf")
    assert (ink.low, ink.high, leaf.low, leaf.high) == (0.0, 1.0, 1.0, 0.0)
    np.testing.assert_allclose(as_inputs(leaf.train_x, leaf).numpy(), values, rtol=0, atol=6e-8)
    np.testing.assert_allclose(as_inputs(ink.train_x, ink).numpy(), 1 - values, rtol=0, atol=6e-8)
    assert torch.equal(as_inputs(torch.tensor([0, 255], dtype=torch.uint8), ink), torch.tensor([1.0, 0.0]))
    with pytest.raises(UserError, match=r"polarity='inc'; did you mean 'ink'\?; allowed: ink, leaf"):
        load(tmp_path, polarity="inc")


def test_folders_are_searched_in_order_and_must_hold_both_parts(tmp_path: Path) -> None:
    write_femnist(tmp_path / "femnist_leaf")
    write_femnist(tmp_path / "femnist")
    write_json(tmp_path / "other_train.json", [])
    assert load(tmp_path).source == str(tmp_path / "femnist")
    (tmp_path / "femnist/leaf_test.json").unlink()
    assert load(tmp_path).source == str(tmp_path / "femnist_leaf")


@pytest.mark.parametrize("end", [".json", ".json.gz"])
def test_the_number_and_the_layout_of_the_files_change_nothing(tmp_path: Path, end: str) -> None:
    train, test = write_femnist(tmp_path / "one")
    for part, users in (("train", train), ("test", test)):
        for number, user in enumerate(users):
            single = document({user: users[user]})
            write_json(tmp_path / f"leaf/{part}/all_data_{number}{end}", single)
            write_json(tmp_path / f"flat/all_data_{number}_niid_05_keep_0_{part}_9{end}", single)
    whole = load(tmp_path / "one")
    assert_same(load(tmp_path / "leaf"), whole)
    assert_same(load(tmp_path / "flat"), whole)


def test_what_else_lies_there_is_left_alone(tmp_path: Path) -> None:
    write_femnist(tmp_path)
    for name in ("._leaf_train.json", "train.txt", "train/other.json", "leaf_train.json.old"):
        write_json(tmp_path / name, [])
    (tmp_path / "a_train.json").mkdir()
    assert len(load(tmp_path).train_y) == 9


def test_a_home_folder_works(tmp_path: Path) -> None:
    write_femnist(tmp_path / "home/sets/femnist")
    assert load(Path("~/sets")).source == str(tmp_path / "home/sets/femnist")


def test_users_without_samples_are_skipped_and_get_no_number(tmp_path: Path) -> None:
    train, _ = write_femnist(tmp_path)
    write_json(tmp_path / "leaf_train.json", document({"a0": {"x": [], "y": []}, **train}))
    read = load(tmp_path).train_writers
    assert read is not None
    assert read.unique().tolist() == [1, 2, 3]


@pytest.mark.parametrize("part", ["train", "test"])
def test_other_values_are_kept_as_floats(tmp_path: Path, part: str) -> None:
    train, test = write_femnist(tmp_path)
    changed = {"train": train, "test": test}[part]
    changed["f0"]["x"][1][5] = 0.3
    write_json(tmp_path / f"leaf_{part}.json", document(changed))
    read = load(tmp_path)
    assert (read.scale, read.offset) == (-1.0, 1.0)
    for users, stored in ((train, read.train_x), (test, read.test_x)):
        assert stored.dtype == torch.float32
        np.testing.assert_array_equal(stored.numpy(), expected(users)[0].astype(np.float32))
    assert_same(load(tmp_path), read)


def test_levels_written_by_float32_are_levels(tmp_path: Path) -> None:
    """A difference below float32's rounding is none; the next float32 is one."""
    train, _ = write_femnist(tmp_path)
    ramp = np.arange(784) % 256
    train["f0"]["x"][0] = [float(str(np.float32(level / 255))) for level in ramp]
    train["f0"]["x"][1] = [int(level > 0) for level in ramp]
    write_json(tmp_path / "leaf_train.json", document(train))
    read = load(tmp_path)
    assert read.train_x.dtype == torch.uint8
    assert read.train_x[0].flatten().tolist() == ramp.tolist()
    train["f0"]["x"][0][100] = float(np.nextafter(np.float32(100 / 255), np.float32(1)))
    write_json(tmp_path / "leaf_train.json", document(train))
    assert load(tmp_path).train_x.dtype == torch.float32


# Mistakes.


def test_missing_files_name_the_place_and_the_source(tmp_path: Path) -> None:
    for message in (error_of(None), error_of(tmp_path), error_of(tmp_path / "none")):
        assert "put *{train,test}*.json or LEAF's {train,test}/all_data_*.json (or .json.gz) in DIR/femnist" in message
        assert "./preprocess.sh -s niid --sf 1.0 -k 0 -t sample" in message
    assert error_of(None).startswith("FEMNIST needs a data folder (--data-dir DIR); put ")
    nothing = f"{tmp_path}: holds no FEMNIST, neither directly nor in femnist, femnist_leaf;"
    assert error_of(tmp_path).startswith(nothing)
    assert error_of(tmp_path / "none").startswith(f"{tmp_path / 'none'}: there is no such folder; ")


@pytest.mark.parametrize("part", ["train", "test"])
def test_one_part_alone_is_not_enough(tmp_path: Path, part: str) -> None:
    write_femnist(tmp_path / "femnist")
    (tmp_path / f"femnist/leaf_{part}.json").unlink()
    other = {"train": "test", "test": "train"}[part]
    assert error_of(tmp_path).startswith(f"{tmp_path / 'femnist'}: holds leaf_{other}.json, but no {part} files; ")


def test_a_name_of_both_parts_is_refused(tmp_path: Path) -> None:
    train, _ = write_femnist(tmp_path)
    path = write_json(tmp_path / "latest_train.json", document(train))
    assert error_of(tmp_path).startswith(f"{path}: its name contains both train and test; ")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_user_in_two_files_of_a_part_names_both(tmp_path: Path, part: str) -> None:
    users = dict(zip(("train", "test"), write_femnist(tmp_path), strict=True))[part]
    path = write_json(tmp_path / f"more_{part}.json", document({"g0": users["f0"], "f0": users["f0"]}))
    message = error_of(tmp_path)
    assert message.startswith(f"{path}: user 'f0' is also in {tmp_path / f'leaf_{part}.json'}; ")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_without_samples_is_refused(tmp_path: Path, part: str) -> None:
    write_femnist(tmp_path)
    write_json(tmp_path / f"leaf_{part}.json", document({"f0": {"x": [], "y": []}}))
    assert error_of(tmp_path).startswith(f"{tmp_path}: its {part} files hold no samples; ")


def at(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set user["x"][1][5] = 0.5 by at("x", 1, 5, value=0.5)."""

    def change(user: dict[str, Any]) -> None:
        inner: Any = user
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (at("x", 1, value=[1.0] * 783), "image 1 holds 783 values, expected 784 numbers"),
        (at("x", 1, value=[[1.0] * 28] * 28), "image 1 holds 28 values, expected 784 numbers"),
        (at("x", 1, value=[[1.0]] * 784), "image 1 holds [1.0]; allowed: numbers from 0 to 1"),
        (at("x", 0, value="white"), "image 0 holds 'white', expected 784 numbers"),
        (at("x", 1, 5, value="1.0"), "image 1 holds '1.0'; allowed: numbers from 0 to 1"),
        (at("x", 1, 5, value=None), "image 1 holds None; allowed"),
        (at("x", 1, 5, value=True), "image 1 holds True; allowed"),
        (at("x", 1, 5, value=1.0000001), "image 1 holds 1.0000001; allowed"),
        (at("x", 1, 5, value=255), "image 1 holds 255; allowed"),
        (at("x", 1, 5, value=-1e-9), "image 1 holds -1e-09; allowed"),
        (at("x", 1, 5, value=10**400), "image 1 holds 1000"),
        (at("x", 1, 5, value=float("nan")), "holds NaN, which is not a JSON number"),
        (at("x", 1, 5, value=float("-inf")), "holds -Infinity, which is not a JSON number"),
        (at("y", 1, value=62), "label 1 is 62; allowed: integers from 0 to 61"),
        (at("y", 1, value=-1), "label 1 is -1; allowed"),
        (at("y", 1, value=3.5), "label 1 is 3.5; allowed"),
        (at("y", 1, value="a"), "label 1 is 'a'; allowed"),
        (at("y", 1, value=None), "label 1 is None; allowed"),
        (at("y", 1, value=True), "label 1 is True; allowed"),
        (at("y", value=[1]), "x holds 4 samples and y 1; expected the same number"),
        (at("x", value=None), "its x is None, expected a list"),
    ],
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_wrong_samples_name_file_and_user(
    tmp_path: Path, part: str, change: Callable[[dict[str, Any]], None], what: str
) -> None:
    write_femnist(tmp_path)
    users = make_users({"f0": 1, "f1": 4})
    whole = document(users)
    change(users["f1"])
    path = write_json(tmp_path / f"leaf_{part}.json", whole)
    assert error_of(tmp_path).startswith(f"{path}: user 'f1': {what}")
    assert caches(tmp_path) == []


def test_a_number_too_large_for_a_float_is_refused(tmp_path: Path) -> None:
    train, _ = write_femnist(tmp_path)
    train["f0"]["x"][1][5] = 0.123456789
    text = json.dumps(document(train)).replace("0.123456789", "1e999")
    (tmp_path / "leaf_train.json").write_text(text)
    assert "user 'f0': image 1 holds inf; allowed: numbers from 0 to 1" in error_of(tmp_path)


def test_damaged_files_are_named_with_where_to_get_them(tmp_path: Path) -> None:
    train, _ = write_femnist(tmp_path)
    path = tmp_path / "leaf_test.json"
    path.write_bytes(gzip.compress(json.dumps(document(train)).encode())[:-100])
    assert error_of(tmp_path).startswith(f"{path}: its gzip data is damaged or cut short (")
    path.write_text("hello")
    assert error_of(tmp_path).startswith(f"{path}: is not LEAF JSON: expected {{ at byte 0, found 'h'; ")
    users = document(train)
    path = write_json(path, {**users, "num_samples": [1, 2, 3]})
    assert error_of(tmp_path).startswith(f"{path}: user 'f2': num_samples says 1, but it holds 3; ")
