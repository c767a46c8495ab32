"""The explicit choice of an implementation for each operation: by name, or by device with the reason; never silent."""

import difflib
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from rflbat_kernels.gram import gram, weighted_sum
from rflbat_kernels.kmeans import kmeans
from rflbat_kernels.lstm_cell import lstm_cell, lstm_cell_backward
from rflbat_kernels.median import masked_median
from rflbat_kernels.order import column_central_mean, column_median, column_trimmed_mean, column_two_means
from rflbat_kernels.pairwise import distance_sums, squared_distances
from rflbat_kernels.pca import pca, pca_lowrank
from rflbat_kernels.pca.reference import solver_for

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class OnDemand:
    """An implementation that is imported when it is chosen, and runs on CUDA devices alone.

    Args:
        path: "module:function".
        packages: what must be there besides torch.
        install: what brings them.
    """

    path: str
    packages: tuple[str, ...]
    install: str
    devices: tuple[str, ...] = ("cuda",)

    @property
    def func(self) -> Callable[..., Any]:
        """The function, named as `functools.partial` names it; importing it may fail where a package is missing."""
        module, _, name = self.path.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function


def _triton(path: str) -> OnDemand:
    return OnDemand(path, ("triton",), "torch's CUDA builds for Linux bring it")


_CUML = OnDemand("rflbat_kernels.kmeans.cuml:kmeans", ("cupy", "cuml"), "pip install 'rflbat[gpu]'")

IMPLEMENTATIONS: dict[str, dict[str, Callable[..., Any] | OnDemand]] = {
    "gram": {"reference": gram, "triton": _triton("rflbat_kernels.gram.triton:gram")},
    "weighted_sum": {"reference": weighted_sum},
    "pairwise": {"reference": squared_distances},
    "distance_sums": {"reference": distance_sums, "triton": _triton("rflbat_kernels.pairwise.triton:distance_sums")},
    "median": {"reference": masked_median},
    "column_median": {"reference": column_median, "triton": _triton("rflbat_kernels.order.triton:column_median")},
    "column_trimmed_mean": {
        "reference": column_trimmed_mean,
        "triton": _triton("rflbat_kernels.order.triton:column_trimmed_mean"),
    },
    "column_central_mean": {"reference": column_central_mean},
    "column_two_means": {"reference": column_two_means},
    "kmeans": {"reference": kmeans, "cuml": _CUML, "triton": _triton("rflbat_kernels.kmeans.triton:kmeans")},
    "lstm_cell": {"reference": lstm_cell, "triton": _triton("rflbat_kernels.lstm_cell.triton:lstm_cell")},
    "lstm_cell_backward": {
        "reference": lstm_cell_backward,
        "triton": _triton("rflbat_kernels.lstm_cell.triton:lstm_cell_backward"),
    },
    "pca": {name: partial(pca, solver=name) for name in ("eigh", "squaring", "krylov")},
    "pca_lowrank": {"reference": pca_lowrank},
}
"""Operation -> implementation -> function. All of one operation take the same arguments."""

_PCA_REASONS = {
    "eigh": "on the CPU nothing has to be waited for, and eigh is exact",
    "squaring": "eigh reads its status back, a wait for the device; matrix products do not",
    "krylov": "with so many rows the others' N^3 operations cost more than all the rest",
}
_log = logging.getLogger(__name__)
_logged: set[tuple[str, str, str]] = set()
_Found = tuple[str, dict[torch.device, Callable[..., Any]]]
_blocks: list[Mapping[str, _Found | None]] = [{}]
"""Of each open block of `using`: operation -> name, and the functions found for the devices met so far; None or no
entry: what "auto" means. No context variable: the threads that train, and autograd's, must see the choice too."""


class Choice(NamedTuple):
    """An implementation that was chosen, and why."""

    op: str
    name: str
    function: Callable[..., Any]
    reason: str


def check(op: str, implementation: str) -> None:
    """Refuse names that the table does not hold; nothing is imported and no device looked at.

    Args:
        op: a key of `IMPLEMENTATIONS`.
        implementation: a name of that row, or "auto".

    Raises:
        ValueError: unknown operation or implementation; the message names the nearest and the allowed ones.

    Example:
        >>> check("gramm", "auto")
        Traceback (most recent call last):
            ...
        ValueError: there is no operation 'gramm'; did you mean 'gram'? Allowed: gram, weighted_sum, ...
    """
    if op not in IMPLEMENTATIONS:
        hint = _nearest(op, IMPLEMENTATIONS)
        raise ValueError(f"there is no operation {op!r}{hint} Allowed: {', '.join(IMPLEMENTATIONS)}")
    names = ("auto", *IMPLEMENTATIONS[op])
    if implementation not in names:
        hint = _nearest(implementation, names)
        raise ValueError(f"{op} has no implementation {implementation!r}{hint} Allowed: {', '.join(names)}")


def choose(op: str, implementation: str = "auto", device: torch.device | str = "cpu", rows: int = 0) -> Choice:
    """Choose the implementation of an operation. Each choice is logged once at INFO.

    Args:
        op: a key of `IMPLEMENTATIONS`.
        implementation: a name of that row, or "auto", which decides by device and rows; what is imported on demand is
            chosen by name alone.
        device: where the tensors will lie.
        rows: how many the matrix of updates has, N; 0: few.

    Returns:
        the choice; its reason is a clause that a run can record.

    Raises:
        ValueError: unknown operation or implementation (the message names the nearest and the allowed ones), or a
            device that the implementation cannot run on: nothing falls back silently.
        ImportError: the implementation needs a package that cannot be imported here; the message says what brings it.

    Example:
        >>> choose("pca", device="cuda").name
        'squaring'
        >>> choose("pca", rows=10_000).name
        'krylov'
        >>> choose("pca", "eig")
        Traceback (most recent call last):
            ...
        ValueError: pca has no implementation 'eig'; did you mean 'eigh'? Allowed: auto, eigh, squaring, krylov
    """
    check(op, implementation)
    device = torch.device(device)
    if device.type == "mps":
        raise ValueError(f"{op} cannot run on {device}, which has no float64; allowed: cpu, cuda")
    if implementation != "auto":
        name, reason = implementation, "asked for by name"
    elif op == "pca":
        name = solver_for(device, rows)
        reason = _PCA_REASONS[name]
    else:
        name = "reference"
        reason = "the only implementation" if len(IMPLEMENTATIONS[op]) == 1 else "the others run where they are named"
    entry = IMPLEMENTATIONS[op][name]
    if isinstance(entry, OnDemand) and device.type not in entry.devices:
        rest = [other for other, it in IMPLEMENTATIONS[op].items() if not isinstance(it, OnDemand)]
        where = ", ".join(entry.devices)
        raise ValueError(f"{op}={name} runs on {where} alone, not on {device}; allowed there: {', '.join(rest)}")
    choice = Choice(op, name, _load(op, name), reason)
    if (op, name, str(device)) not in _logged:
        _logged.add((op, name, str(device)))
        _log.info("%s on %s: %s (%s)", op, device, name, reason)
    return choice


@contextmanager
def using(choices: Mapping[str, str]) -> Iterator[None]:
    """Run chosen implementations inside a `with` block, wherever the operations of `rflbat_kernels` are called.

    An operation that is not named runs what the block around it chose, else what `choose` calls "auto". The choice
    holds for all threads of the process, since a backward pass on a device runs on threads of autograd's own: two
    threads that choose at the same time disturb each other.

    Args:
        choices: operation -> implementation; "auto" undoes the choice of an outer block.

    Raises:
        ValueError: as `choose` raises, for a name at the start of the block, for a device at the first call that
            brings a tensor of it.
        ImportError: as `choose` raises, at the start of the block.

    Example:
        >>> from rflbat_kernels import pca
        >>> with using({"pca": "squaring"}):
        ...     pca(torch.tensor([[4.0, -4.0], [-4.0, 4.0]])).round(decimals=6).tolist()
        [[2.0, 0.0], [-2.0, 0.0]]
    """
    found: dict[str, _Found | None] = dict(_blocks[-1])
    for op, name in choices.items():
        check(op, name)
        found[op] = None
        if name != "auto":
            _load(op, name)
            found[op] = (name, {})
    _blocks.append(found)
    try:
        yield
    finally:
        _blocks.pop()


def dispatched(op: str, reference: Function) -> Function:
    """Make the function that callers of an operation see: it runs what `using` chose, else the reference.

    That the reference is what "auto" means holds for every operation; `pca` decides on its solver inside.

    Args:
        op: a key of `IMPLEMENTATIONS`.
        reference: the operation's reference, which lends its name, signature and docstring.

    Returns:
        a function of the same type.

    Example:
        >>> dispatched("gram", gram)(torch.tensor([[3.0]])).raw_NN.item()
        9.0
    """

    @functools.wraps(reference)
    def run(*args: Any, **kwargs: Any) -> Any:
        chosen = _blocks[-1].get(op)
        if chosen is None:
            return reference(*args, **kwargs)
        name, functions = chosen
        device = next((given.device for given in (*args, *kwargs.values()) if isinstance(given, Tensor)), None)
        if device is None:
            return reference(*args, **kwargs)  # which says what is wrong
        if device not in functions:
            functions[device] = choose(op, name, device).function
        return functions[device](*args, **kwargs)

    return cast(Function, run)


def _load(op: str, name: str) -> Callable[..., Any]:
    """Give the function of a row; what it needs is imported now, before any work."""
    entry = IMPLEMENTATIONS[op][name]
    if not isinstance(entry, OnDemand):
        return entry
    for package in entry.packages:
        try:
            import_module(package)
        except ImportError as error:
            said = f"{op}={name} needs {package}, which cannot be imported here ({error}); {entry.install}"
            raise ImportError(said) from error
    return entry.func


def _nearest(name: str, options: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, options, n=1)
    return f"; did you mean {close[0]!r}?" if close else "."
