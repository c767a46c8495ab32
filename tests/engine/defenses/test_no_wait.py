"""No defense waits for the device, shown without one: on fake CUDA tensors there is no value to wait for.

Axes: N clients of the round, D parameters.
"""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)

from rflbat.defenses.base import Decision, Defense, Updates
from rflbat.defenses.given import ARGUMENTS, server_view
from rflbat.defenses.registry import DEFENSES, make_defense
from rflbat.defenses.server_view import ServerView
from rflbat.randomness import replayed
from rflbat.testing.subject import supplied
from rflbat_kernels import finite_rows
from tests.engine.brief import BRIEF
from tests.kernels.device_waits import Crossings, WaitForDevice, cluster_nothing, waits_forbidden

CLIENTS, PARAMETERS, FEDERATION = 13, 63, 21
VARIANTS: list[tuple[str, dict[str, object]]] = [(name, BRIEF.get(name, {})) for name in DEFENSES] + [
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
    ("fltrust", {"fallback": "uniform"}),
    ("flame", {"noise": 0.0, "vector": "update", "bound": "kept"}),
    ("deepsight", {"samples": 20, "seeds": 1, "outliers": "alone"}),
]
variants = pytest.mark.parametrize("variant", range(len(VARIANTS)), ids=lambda at: f"{VARIANTS[at]}")


def fake(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


def one_round(name: str, parameters: dict[str, object]) -> Decision:
    """Everything is on the device before the defense is asked: what is drawn was copied then."""
    defense = make_defense(name, parameters)
    matrix_ND = fake(CLIENTS, PARAMETERS, dtype=torch.float32)
    updates = Updates(
        values=matrix_ND,
        sizes_N=fake(CLIENTS),
        client_ids_N=fake(CLIENTS, dtype=torch.int64),
        valid_N=finite_rows(matrix_ND),
        malicious_count=fake(dtype=torch.int64),
        server=known(defense, PARAMETERS, matrix_ND),
    )
    numbers_U = fake(defense.num_uniforms(CLIENTS, PARAMETERS))
    state = defense.init(FEDERATION, PARAMETERS, matrix_ND.device)
    return defense.apply(updates, state, replayed(numbers_U))


def known(defense: Defense, parameters: int, like_ND: torch.Tensor) -> ServerView:
    """What the server knows, in the type and on the device of the updates."""
    given = supplied(defense, parameters)
    with unset_fake_temporarily():
        placed = {name: tuple(value.shape) for name, value in given.items() if isinstance(value, torch.Tensor)}
    made = {name: like_ND.new_empty(shape) for name, shape in placed.items()}
    return server_view(defense, like_ND, None, {**dict.fromkeys(ARGUMENTS), **given, **made}, lambda value, name: value)


@variants
def test_a_defense_waits_for_nothing_or_as_often_as_it_declares(variant, monkeypatch):
    """`.item()`, `nonzero`, `if tensor`, a copy to the host or a list to the device: each raises or is counted."""
    cluster_nothing(monkeypatch)
    waits = make_defense(*VARIANTS[variant]).waits
    with FakeTensorMode(), Crossings(forbidden=waits == 0) as crossings:
        decision = one_round(*VARIANTS[variant])
    # Each wait copies distances to the host and labels back.
    assert crossings.seen == ["_to_copy copies between cpu and cuda"] * 2 * waits
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
@pytest.mark.parametrize("clients", [1, CLIENTS])
@pytest.mark.parametrize("parameters", [1, PARAMETERS, PARAMETERS + 1])
def test_a_defense_draws_as_many_uniforms_as_it_says(variant, clients, parameters):
    defense, drawn = make_defense(*VARIANTS[variant]), []
    clients, parameters = max(clients, defense.min_clients), max(parameters, 2 if "layers" in defense.needs else 1)

    def draw(*shape: int) -> torch.Tensor:
        drawn.append(math.prod(shape))
        return torch.rand(shape, dtype=torch.float64)

    matrix_ND = torch.randn(clients, parameters)
    defense.apply(
        Updates(
            values=matrix_ND,
            sizes_N=torch.ones(clients, dtype=torch.float64),
            client_ids_N=torch.arange(clients),
            valid_N=torch.ones(clients, dtype=torch.bool),
            malicious_count=torch.tensor(0),
            server=known(defense, parameters, matrix_ND),
        ),
        defense.init(FEDERATION, parameters, torch.device("cpu")),
        draw,
    )
    assert sum(drawn) == defense.num_uniforms(clients, parameters)


def test_control_a_defense_that_waits_would_be_found(monkeypatch):
    """A cast to bool in the middle of a defense, as an early stop would need."""
    monkeypatch.setattr("rflbat.defenses.krum.krum_scores", lambda updates, f: f.new_zeros(CLIENTS) if f > 0 else None)
    with waits_forbidden(), pytest.raises(DataDependentOutputException):
        one_round("krum", {})


def test_control_a_defense_that_copies_would_be_found(monkeypatch):
    monkeypatch.setattr("rflbat.defenses.krum.krum_scores", lambda updates, f: updates.sizes_N.cpu())
    with waits_forbidden(), pytest.raises(WaitForDevice):
        one_round("krum", {})
