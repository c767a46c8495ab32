"""Table of the implementations of each operation, as text: it is read without importing torch.

This file imports nothing of its package, so that ``rflbat list`` can load it alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Implementation:
    """One implementation of an operation.

    Args:
        path: location of the function, "module:function".
        options: keyword arguments that select it among the variants of the function.
        packages: packages that it needs besides torch; with any, it is imported only when it is chosen.
        install: how to install them, for the error message.
        devices: device types that it runs on; empty for any device.
    """

    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    install: str = ""
    devices: tuple[str, ...] = ()

    @property
    def func(self) -> Callable[..., Any]:
        """The function, under the attribute name that ``functools.partial`` uses. The import may raise ImportError."""
        module, _, name = self.path.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return partial(function, **self.options) if self.options else function


def _at(path: str, **options: Any) -> Implementation:
    return Implementation(f"rflbat_kernels.{path}", options)


def _cpu(path: str) -> Implementation:
    return Implementation(f"rflbat_kernels.{path}", devices=("cpu",))


def _triton(path: str) -> Implementation:
    install = "torch's CUDA builds for Linux include it"
    return Implementation(f"rflbat_kernels.{path}", {}, ("triton",), install, ("cuda",))


_CUML = Implementation(
    "rflbat_kernels.kmeans.cuml:kmeans", {}, ("cupy", "cuml"), "pip install 'rflbat[gpu]'", ("cuda",)
)

TABLE: dict[str, dict[str, Implementation]] = {
    "gram": {"cpu": _cpu("gram.cpu:gram"), "torch": _at("gram.torch:gram"), "triton": _triton("gram.triton:gram")},
    "weighted_sum": {"cpu": _cpu("gram.cpu:weighted_sum"), "torch": _at("gram.torch:weighted_sum")},
    "distances_to_sum": {"cpu": _cpu("gram.cpu:distances_to_sum"), "torch": _at("gram.torch:distances_to_sum")},
    "inner_products": {"torch": _at("gram.torch:inner_products")},
    "finite_rows": {"cpu": _cpu("gram.cpu:finite_rows"), "torch": _at("gram.torch:finite_rows")},
    "pairwise": {"torch": _at("pairwise.torch:squared_distances")},
    "distance_sums": {
        "torch": _at("pairwise.torch:distance_sums"),
        "triton": _triton("pairwise.triton:distance_sums"),
    },
    "median": {"torch": _at("median.torch:masked_median")},
    "column_median": {
        "cpu": _cpu("order.cpu:column_median"),
        "torch": _at("order.torch:column_median"),
        "triton": _triton("order.triton:column_median"),
    },
    "column_trimmed_mean": {
        "cpu": _cpu("order.cpu:column_trimmed_mean"),
        "torch": _at("order.torch:column_trimmed_mean"),
        "triton": _triton("order.triton:column_trimmed_mean"),
    },
    "column_central_mean": {
        "cpu": _cpu("order.cpu:column_central_mean"),
        "torch": _at("order.torch:column_central_mean"),
    },
    "column_two_means": {"cpu": _cpu("order.cpu:column_two_means"), "torch": _at("order.torch:column_two_means")},
    "kmeans": {"torch": _at("kmeans.torch:kmeans"), "cuml": _CUML, "triton": _triton("kmeans.triton:kmeans")},
    "hdbscan": {"sklearn": _at("hdbscan.sklearn:hdbscan")},
    "lstm_cell": {"torch": _at("lstm_cell.torch:lstm_cell"), "triton": _triton("lstm_cell.triton:lstm_cell")},
    "lstm_cell_backward": {
        "torch": _at("lstm_cell.torch:lstm_cell_backward"),
        "triton": _triton("lstm_cell.triton:lstm_cell_backward"),
    },
    "pca": {name: _at("pca.torch:pca", solver=name) for name in ("eigh", "squaring", "krylov")},
    "pca_lowrank": {"torch": _at("pca.torch:pca_lowrank")},
}
"""Operation -> implementation -> function. All implementations of an operation take the same arguments.

"torch" runs on any device. "cpu" takes CPU tensors only and is the default there, if an operation has one."""
