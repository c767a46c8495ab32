"""Small LEAF files in the real layout, their PIXELS SYNTHETIC (random levels), and what tests ask of data read back."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rflbat.data import femnist
from rflbat.data.base import Dataset

TENSORS = ("train_x", "train_y", "test_x", "test_y", "train_writers")

Users = dict[str, dict[str, Any]]


def make_users(sizes: dict[str, int], seed: int = 5) -> Users:
    """Users with given numbers of samples: levels k/255, the corner always background 1.0, labels 0..61."""
    rng = np.random.default_rng(seed)
    users: Users = {}
    for name, size in sizes.items():
        levels = rng.integers(0, 256, (size, 784))
        levels[:, 0] = 255
        users[name] = {"x": (levels / 255).tolist(), "y": rng.integers(0, 62, size).tolist()}
    return users


def document(users: Users) -> dict[str, Any]:
    return {"users": [*users], "num_samples": [len(user["y"]) for user in users.values()], "user_data": users}


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON document, gzip'ed if the name says so; NaN and Infinity as Python's json spells them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(value).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_femnist(folder: Path, *, end: str = ".json") -> tuple[Users, Users]:
    """Write one training and one test file; give their users."""
    train, test = make_users({"f2": 3, "f0": 4, "f1": 2}), make_users({"f0": 2, "e9": 1}, seed=6)
    write_json(folder / f"leaf_train{end}", document(train))
    write_json(folder / f"leaf_test{end}", document(test))
    return train, test


def assert_same(one: Dataset, other: Dataset) -> None:
    for name in TENSORS:
        assert getattr(one, name).dtype == getattr(other, name).dtype
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert one.scale == other.scale


def caches(folder: Path) -> list[Path]:
    return sorted(folder.glob("femnist-*.safetensors"))


def forbid_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(femnist, "read_users", lambda *rest: pytest.fail("the cache must be used"))
