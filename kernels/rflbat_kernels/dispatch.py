"""The explicit choice of an implementation for each operation: by name, or by device with the reason; never silent."""

import difflib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from rflbat_kernels.gram import gram, weighted_sum
from rflbat_kernels.kmeans import kmeans
from rflbat_kernels.median import masked_median
from rflbat_kernels.order import column_central_mean, column_median, column_trimmed_mean, column_two_means
from rflbat_kernels.pairwise import squared_distances
from rflbat_kernels.pca import pca, pca_lowrank
from rflbat_kernels.pca.reference import solver_for

IMPLEMENTATIONS: dict[str, dict[str, Callable[..., Any]]] = {
    "gram": {"reference": gram},
    "weighted_sum": {"reference": weighted_sum},
    "pairwise": {"reference": squared_distances},
    "median": {"reference": masked_median},
    "column_median": {"reference": column_median},
    "column_trimmed_mean": {"reference": column_trimmed_mean},
    "column_central_mean": {"reference": column_central_mean},
    "column_two_means": {"reference": column_two_means},
    "kmeans": {"reference": kmeans},
    "pca": {
        "eigh": partial(pca, solver="eigh"),
        "squaring": partial(pca, solver="squaring"),
        "lowrank": pca_lowrank,
    },
}
"""Operation -> implementation -> function. All of one operation take the same arguments, except that `pca`'s "lowrank"
takes the matrix in place of its Gram matrix."""

_PCA_REASONS = {
    "eigh": "on the CPU nothing has to be waited for, and eigh is exact",
    "squaring": "eigh reads its status back, a wait for the device; matrix products do not",
}
_log = logging.getLogger(__name__)
_logged: set[tuple[str, str, str]] = set()


class Choice(NamedTuple):
    """An implementation that was chosen, and why."""

    op: str
    name: str
    function: Callable[..., Any]
    reason: str


def choose(op: str, implementation: str = "auto", device: torch.device | str = "cpu") -> Choice:
    """Choose the implementation of an operation. Each choice is logged once at INFO.

    Args:
        op: a key of `IMPLEMENTATIONS`.
        implementation: a name of that row, or "auto", which decides by the device.
        device: where the tensors will lie.

    Returns:
        the choice; its reason is a clause that a run can record.

    Raises:
        ValueError: unknown operation or implementation (the message names the nearest and the allowed ones), or a
            device that the implementation cannot run on: nothing falls back silently.

    Example:
        >>> choose("pca", device="cuda").name
        'squaring'
        >>> choose("pca", "eig")
        Traceback (most recent call last):
            ...
        ValueError: pca has no implementation 'eig'; did you mean 'eigh'? Allowed: auto, eigh, squaring, lowrank
    """
    device = torch.device(device)
    if op not in IMPLEMENTATIONS:
        raise ValueError(
            f"there is no operation {op!r}{_nearest(op, IMPLEMENTATIONS)} Allowed: {', '.join(IMPLEMENTATIONS)}"
        )
    names = ("auto", *IMPLEMENTATIONS[op])
    if implementation not in names:
        hint = _nearest(implementation, names)
        raise ValueError(f"{op} has no implementation {implementation!r}{hint} Allowed: {', '.join(names)}")
    if device.type == "mps":
        raise ValueError(f"{op} cannot run on {device}, which has no float64; allowed: cpu, cuda")
    if implementation != "auto":
        name, reason = implementation, "asked for by name"
    elif op == "pca":
        name = solver_for(device)
        reason = _PCA_REASONS[name]
    else:
        name, reason = "reference", "the only implementation"
    choice = Choice(op, name, IMPLEMENTATIONS[op][name], reason)
    if (op, name, str(device)) not in _logged:
        _logged.add((op, name, str(device)))
        _log.info("%s on %s: %s (%s)", op, device, name, reason)
    return choice


def _nearest(name: str, options: Any) -> str:
    close = difflib.get_close_matches(name, options, n=1)
    return f"; did you mean {close[0]!r}?" if close else "."
