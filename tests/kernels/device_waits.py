"""A place without a device where whatever would wait for one raises."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

STATUS_READERS = {"_linalg_eigh", "linalg_eig", "linalg_qr", "_linalg_svd", "linalg_inv_ex", "_linalg_solve_ex"}
"""Decompositions that read their status back on the host; fake tensors do not show that."""


class WaitForDevice(RuntimeError):
    """Something would have waited for the device."""


class _NoCopiesAcross(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        if name in STATUS_READERS and devices != {"cpu"}:
            raise WaitForDevice(f"{name} reads its status back")
        # A 0-dimensional host tensor may ride along as a number; anything else that crosses is a copy.
        if name in {"_to_copy", "copy_"} and len(devices) > 1:
            raise WaitForDevice(f"{name} copies between {' and '.join(sorted(devices))}")
        return result


@contextmanager
def waits_forbidden() -> Iterator[None]:
    """Run on fake tensors (device="cuda" needs no CUDA here): values do not exist, so nothing can look at them."""
    with FakeTensorMode(), _NoCopiesAcross():
        yield
