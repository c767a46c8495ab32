"""Explicit choice of an implementation for each operation, by name or by device. Every choice has a recorded reason."""

import difflib
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from rflbat_kernels.implementations import TABLE, Implementation
from rflbat_kernels.pca.torch import solver_for

Function = TypeVar("Function", bound=Callable[..., Any])


IMPLEMENTATIONS: dict[str, dict[str, Callable[..., Any] | Implementation]] = {
    op: {name: entry if entry.packages else entry.func for name, entry in row.items()} for op, row in TABLE.items()
}
"""``TABLE`` with the functions imported, except those that need further packages."""
FORMER = "reference"
"""Name of the default implementation in version 0.1, still accepted: "cpu" on a CPU if there is one, else "torch"."""

_PCA_REASONS = {
    "eigh": "eigh is exact, and on a CPU its synchronisation costs nothing",
    "squaring": "eigh synchronises with the device to read its status; matrix products do not",
    "krylov": "with this many rows the N^3 operations of the other solvers dominate the cost",
}
_log = logging.getLogger(__name__)
_logged: set[tuple[str, str, str]] = set()
_Found = tuple[str, dict[torch.device, Callable[..., Any]]]
_blocks: list[Mapping[str, _Found | None]] = [{}]
"""One mapping per open ``using`` block: operation -> chosen name and a cache of its function per device. None or a
missing entry means "auto". This is not a context variable, because training and autograd threads must see it too."""


class Choice(NamedTuple):
    """A chosen implementation and the reason for the choice."""

    op: str
    name: str
    function: Callable[..., Any]
    reason: str


def check(op: str, implementation: str) -> None:
    """Check that an operation and an implementation are in the table, without importing anything.

    Args:
        op: a key of ``IMPLEMENTATIONS``.
        implementation: an implementation of that operation, "auto", or the former name "reference".

    Raises:
        ValueError: unknown operation or implementation; the message names the closest match and the allowed names.

    Example:
        >>> check("gramm", "auto")
        Traceback (most recent call last):
            ...
        ValueError: unknown operation 'gramm'; did you mean 'gram'? Allowed: gram, weighted_sum, ...
    """
    if op not in IMPLEMENTATIONS:
        hint = _nearest(op, IMPLEMENTATIONS)
        raise ValueError(f"unknown operation {op!r}{hint} Allowed: {', '.join(IMPLEMENTATIONS)}")
    names = ("auto", *IMPLEMENTATIONS[op])
    if implementation not in names and not (implementation == FORMER and "torch" in names):
        hint = _nearest(implementation, names)
        raise ValueError(f"{op} has no implementation {implementation!r}{hint} Allowed: {', '.join(names)}")


def choose(op: str, implementation: str = "auto", device: torch.device | str = "cpu", rows: int = 0) -> Choice:
    """Choose the implementation of an operation. Each choice is logged once at INFO.

    Args:
        op: a key of ``IMPLEMENTATIONS``.
        implementation: an implementation of that operation, or "auto", which decides by device and number of rows.
            Implementations that are imported on demand are never chosen by "auto". "reference", the name in version
            0.1, means "auto" for every operation that has a "torch" implementation.
        device: device of the tensors.
        rows: number N of rows of the matrix of updates; 0 stands for few.

    Returns:
        the choice; its reason is a clause that a run can record.

    Raises:
        ValueError: unknown operation or implementation (the message names the closest match and the allowed names), or
            a device that the implementation cannot run on: there is no silent fallback.
        ImportError: a package that the implementation needs cannot be imported; the message says how to install it.

    Example:
        >>> choose("gram").name, choose("gram", device="cuda").name
        ('cpu', 'torch')
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
    if implementation not in ("auto", FORMER):
        name, reason = implementation, "requested by name"
    elif op == "pca":
        name = solver_for(device, rows)
        reason = _PCA_REASONS[name]
    else:
        row = IMPLEMENTATIONS[op]
        name = "cpu" if device.type == "cpu" and "cpu" in row else "torch" if "torch" in row else next(iter(row))
        reason = "the only implementation" if len(IMPLEMENTATIONS[op]) == 1 else f"the default on {device.type}"
    devices = _devices(op, name)
    if devices and device.type not in devices:
        rest = ", ".join(
            other for other in IMPLEMENTATIONS[op] if device.type in (_devices(op, other) or (device.type,))
        )
        raise ValueError(f"{op}={name} runs only on {', '.join(devices)}, not on {device}; allowed on {device}: {rest}")
    choice = Choice(op, name, _load(op, name), reason)
    if (op, name, str(device)) not in _logged:
        _logged.add((op, name, str(device)))
        _log.info("%s on %s: %s (%s)", op, device, name, reason)
    return choice


@contextmanager
def using(choices: Mapping[str, str]) -> Iterator[None]:
    """Select implementations for all calls of ``rflbat_kernels`` operations inside a ``with`` block.

    An operation that is not named keeps the choice of the enclosing block, or "auto" if there is none. The choice
    applies to all threads of the process, because autograd runs backward passes on its own threads; do not open blocks
    from two threads at the same time.

    Args:
        choices: operation -> implementation; "auto" (and "reference") undoes the choice of an enclosing block.

    Raises:
        ValueError: as in ``choose``. Unknown names raise at the start of the block, unsupported devices at the first
            call with a tensor on such a device.
        ImportError: as in ``choose``, at the start of the block.

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
        if name not in ("auto", FORMER):
            _load(op, name)
            found[op] = (name, {})
    _blocks.append(found)
    try:
        yield
    finally:
        _blocks.pop()


def dispatched(op: str, function: Function) -> Function:
    """Build the public function of an operation: it runs the choice of ``using``, by default that of "auto".

    Args:
        op: a key of ``IMPLEMENTATIONS``.
        function: the implementation for any device, which also provides the name, signature and docstring. "auto" runs
            it unless the operation has a "cpu" implementation and the tensors are on a CPU. ``pca`` selects its solver
            inside.

    Returns:
        a function of the same type.

    Example:
        >>> from rflbat_kernels.gram import gram
        >>> dispatched("gram", gram)(torch.tensor([[3.0]])).raw_NN.item()
        9.0
    """
    on_cpu = cast(Function, IMPLEMENTATIONS[op].get("cpu", function))

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        device = next((given.device for given in (*args, *kwargs.values()) if isinstance(given, Tensor)), None)
        if device is None:
            return function(*args, **kwargs)  # no tensor given: the function raises the error
        chosen = _blocks[-1].get(op)
        if chosen is None:
            return (on_cpu if device.type == "cpu" else function)(*args, **kwargs)
        name, functions = chosen
        if device not in functions:
            functions[device] = choose(op, name, device).function
        return functions[device](*args, **kwargs)

    return cast(Function, run)


def _devices(op: str, name: str) -> tuple[str, ...]:
    """Return the types of the devices that an implementation is restricted to; empty for any device."""
    entry = IMPLEMENTATIONS[op][name]
    if isinstance(entry, Implementation):
        return entry.devices
    return ("cpu",) if name == "cpu" else ()


def _load(op: str, name: str) -> Callable[..., Any]:
    """Return the function of an implementation; import the packages that it needs now, before any work."""
    entry = IMPLEMENTATIONS[op][name]
    if not isinstance(entry, Implementation):
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
