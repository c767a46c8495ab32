"""No defense waits for the device, shown without one: on fake CUDA tensors there is no value to wait for.

Axes: N clients of the round, D parameters.
"""

import re
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rflbat.defenses.base import Decision, Updates
from rflbat.defenses.registry import DEFENSES, make_defense
from rflbat_kernels import finite_rows

CLIENTS, PARAMETERS, FEDERATION = 13, 63, 21
STATUS_READERS = re.compile("aten::_?linalg_(?!.*norm)")
"""Decompositions and solvers: CUDA reads their status back on the host. Norms are mere sums."""

SHORT = {"geomed": {"passes": 5}}
"""Every pass is the same: a few show what all would."""

VARIANTS: list[tuple[str, dict[str, object]]] = [(name, SHORT.get(name, {})) for name in DEFENSES] + [
    ("rflbat", {"clusters": 1}),
    ("rflbat", {"clusters": 3, "weighting": "uniform"}),
    ("rflbat", {"clusters": "gap"}),
    ("rflbat", {"clusters": "gap2"}),
    ("rflbat", {"clusters": "silhouette"}),
    ("foolsgold", {"memory": False}),
    ("foolsgold", {"normalise": False}),
    ("krum", {"f": 2}),
    ("krum", {"f": "true"}),
    ("multikrum", {"f": "true"}),
    ("multikrum", {"m": 3}),
    ("rfa", {"passes": 2}),
    ("trimmed_mean", {"f": 2}),
    ("trimmed_mean", {"f": "true"}),
    ("bulyan", {"f": 2}),
    ("bulyan", {"f": "true"}),
    ("norm_clipping", {"bound": 2.0, "noise": 0.1}),
    ("auror", {"alpha": 0.5}),
]
variants = pytest.mark.parametrize("variant", range(len(VARIANTS)), ids=lambda at: f"{VARIANTS[at]}")


class Crossings(TorchDispatchMode):
    """Note where data crosses between host and device, or a decomposition reads its status back.

    Fake tensors alone let both pass, although each stops the host until the device is there.
    """

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)}
        if len(devices) > 1 and "copy" in func.name():
            self.seen.append(f"{func.name()} between {sorted(devices)}")
        if "cuda" in devices and STATUS_READERS.match(func.name()):
            self.seen.append(func.name())
        return result


def fake(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


def one_round(name: str, parameters: dict[str, object]) -> Decision:
    matrix_ND = fake(CLIENTS, PARAMETERS, dtype=torch.float32)
    updates = Updates(
        matrix_ND=matrix_ND,
        sizes_N=fake(CLIENTS),
        client_ids_N=fake(CLIENTS, dtype=torch.int64),
        valid_N=finite_rows(matrix_ND),
        malicious_count=fake(dtype=torch.int64),
    )
    defense = make_defense(name, parameters)
    state = defense.init(FEDERATION, PARAMETERS, matrix_ND.device)
    return defense.apply(updates, state, fake)


@cache
def observed(variant: int) -> tuple[Decision, list[str]]:
    with FakeTensorMode(), Crossings() as crossings:
        return one_round(*VARIANTS[variant]), crossings.seen


@variants
def test_no_value_is_asked_for(variant):
    """`.item()`, `nonzero`, boolean indexing, `if tensor`: each raises here."""
    decision, _ = observed(variant)
    named = {"update": (PARAMETERS,), "kept": (CLIENTS,), "weights": (CLIENTS,), "scores": (CLIENTS,)}
    for key, shape in named.items():
        value = getattr(decision, key)
        assert isinstance(value, FakeTensor)
        assert value.device.type == "cuda"
        assert value.shape == shape, key
    assert decision.update.dtype == torch.float32
    assert all(value.device.type == "cuda" for value in decision.trace.values())
    assert decision.trace["stage"].shape == (CLIENTS,)


@variants
def test_nothing_crosses_between_host_and_device(variant):
    """What is drawn on the host is copied before the defense is asked."""
    assert observed(variant)[1] == []


DATA_DEPENDENT: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "if": lambda x: bool(x.sum() > 0),
    "tolist": lambda x: x.tolist(),
    "nonzero": lambda x: x.nonzero(),
    "boolean index": lambda x: x[x > 0],
    "unique": lambda x: x.unique(),
}
CROSSING: dict[str, Callable[[torch.Tensor], object]] = {
    "cpu": lambda x: x.cpu(),
    "list to device": lambda x: torch.tensor([1, 2, 3], device=x.device),
    "host to device": lambda x: torch.ones(3).to(x.device),
    "eigh": lambda x: torch.linalg.eigh(x[:, None] * x),
    "svd": lambda x: torch.linalg.svd(x[:, None] * x),
    "qr": lambda x: torch.linalg.qr(x[:, None] * x),
}
HARMLESS: dict[str, Callable[[torch.Tensor], object]] = {
    "arange": lambda x: torch.arange(3, device=x.device),
    "where": lambda x: torch.where(x > 0, x, 1.0),
    "fill": lambda x: torch.full_like(x, 3.0),
    "gather": lambda x: x.index_select(0, x.argmax()[None]),
    "norm": lambda x: torch.linalg.vector_norm(x),
    "sort": lambda x: x.sort().values.cumsum(0) @ x,
}


@pytest.mark.parametrize("kind", DATA_DEPENDENT)
def test_control_a_value_that_is_asked_for_raises(kind):
    with FakeTensorMode(), pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        DATA_DEPENDENT[kind](fake(3))


@pytest.mark.parametrize("kind", [*CROSSING, *HARMLESS])
def test_control_crossings_are_seen_and_nothing_else(kind):
    with FakeTensorMode():
        x = fake(3)
        with Crossings() as crossings:
            (CROSSING | HARMLESS)[kind](x)
    assert bool(crossings.seen) is (kind in CROSSING)


def test_control_a_defense_that_waits_would_be_found(monkeypatch):
    """A cast to bool in the middle of a defense, as an early stop would need."""
    monkeypatch.setattr("rflbat.defenses.krum.krum_scores", lambda updates, f: f.new_zeros(CLIENTS) if f > 0 else None)
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        one_round("krum", {})
