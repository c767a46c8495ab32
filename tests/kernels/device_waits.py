"""A place without a device where whatever would wait for one raises, and where copies to and from it are counted."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

STATUS_READERS = re.compile(r"_?linalg_(?!.*norm)")
"""Decompositions and solvers read their status back on the host; fake tensors do not show that. Norms are mere sums."""


class WaitForDevice(RuntimeError):
    """Something would have waited for the device."""


class Crossings(TorchDispatchMode):
    """Note where data crosses between host and device, or a decomposition reads its status back.

    Fake tensors alone let both pass, although each stops the host until the device is there.

    Args:
        forbidden: raise at the first one.
    """

    def __init__(self, forbidden: bool = True) -> None:
        super().__init__()
        self.forbidden = forbidden
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        devices = sorted({tensor.device.type for tensor in tensors})
        if STATUS_READERS.match(name) and "cuda" in devices:
            self._note(f"{name} reads its status back")
        # A 0-dimensional host tensor may ride along as a number, but `where` copies it to the device first.
        if len(devices) > 1 and ("copy" in name or name == "where"):
            self._note(f"{name} copies between {' and '.join(devices)}")
        return result

    def _note(self, what: str) -> None:
        if self.forbidden:
            raise WaitForDevice(what)
        self.seen.append(what)


@contextmanager
def waits_forbidden() -> Iterator[None]:
    """Run on fake tensors (device="cuda" needs no CUDA here): values do not exist, so nothing can look at them."""
    with FakeTensorMode(), Crossings():
        yield


def cluster_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let HDBSCAN's part on the host put all points in one cluster: fake tensors have no values to cluster."""

    def cluster(packed: torch.Tensor, sets: int, points: int, settings: object) -> torch.Tensor:
        assert packed.device.type == "cpu"
        return torch.zeros(sets, points, dtype=torch.int64)

    monkeypatch.setattr(import_module("rflbat_kernels.hdbscan.sklearn"), "cluster_on_host", cluster)
