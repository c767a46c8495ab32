"""The interface of a defense: updates, state and random draws in, a decision out, without waiting for the device.

Axes: N clients of the round, D parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from rflbat.defenses.server_view import NEEDS
from rflbat.defenses.updates import Updates as Updates
from rflbat.errors import UserError
from rflbat.randomness import Draw

KEPT, NONFINITE = 0, 1
"""The first two stages of every defense, as positions in ``Defense.stages``."""


@dataclass(frozen=True)
class NoState:
    """State of a stateless defense."""


@dataclass(frozen=True)
class Decision:
    """The result of a defense for one round.

    Args:
        update: ``(D,)``, added to the global parameters (times the server's learning rate).
        kept: ``(N,)`` bool, clients that contribute.
        weights: ``(N,)`` float64, aggregation weights. They sum to 1, or are all 0 if no client is kept.
        scores: ``(N,)`` float64, the number by which the defense judged each client; each defense documents its own.
        state: state for the next round.
        trace: named tensors that explain the decision. ``trace["stage"]``, ``(N,)`` int64, is the position in
            ``Defense.stages`` of the stage that rejected each client (0: kept).
    """

    update: Tensor
    kept: Tensor
    weights: Tensor
    scores: Tensor
    state: Any
    trace: Mapping[str, Tensor] = field(default_factory=dict)


Init = Callable[[int, int, torch.device], Any]
"""``init(clients, parameters, device)`` returns the state before the first round. If the columns of the updates are
sharded over several processes, ``parameters`` is the number of columns of this process."""
Apply = Callable[[Updates, Any, Draw], Decision]
Pretrain = Callable[[Tensor, Draw], Any]
"""``pretrain(clean (M, D), draw)`` returns the state before the first round, learned from clean updates."""


Uniforms = Callable[[int, int], int]
"""``num_uniforms(clients, parameters)`` returns the largest number of uniforms that one call of ``apply`` draws."""


BY_COLUMN = {"by_column": True}
"""Metadata of a state field whose last axis is the parameter axis, with at most one other axis before it.

If the columns of the updates are sharded over several processes, each process keeps its own shard of the field; a
checkpoint holds all columns.
"""


def no_uniforms(clients: int, parameters: int) -> int:
    """Return 0: ``apply`` draws no random numbers."""
    return 0


def no_state(clients: int, parameters: int, device: torch.device) -> NoState:
    """Return the state of a stateless defense."""
    return NoState()


@dataclass(frozen=True)
class Defense:
    """A pair of pure functions, as in optax: ``init`` returns a state, ``apply`` maps a state to the next one.

    Args:
        name: registry name.
        stages: names of the stages that can reject a client; "kept" and "nonfinite" come first.
        apply: (updates, state, draw) -> decision.
        init: (clients, parameters, device) -> state, a frozen dataclass of tensors.
        min_clients: smallest number of clients per round for which the parameters are valid.
        pretrain: (clean updates ``(M, D)``, draw) -> state before the first round, in the shapes of ``init``, for a
            defense that learns from clean updates; None for all others. It must ignore non-finite rows.
        num_uniforms: (clients of the round, parameters) -> number of uniforms that ``apply`` draws. They are put on the
            device before the call; every process has all of them.
        needs_all_columns: whether ``apply`` needs complete update vectors. False: it works on a column shard, since
            every reduction over D goes through ``rflbat_kernels.sharding``. None (default for third parties): unknown,
            refused under torchrun. The defenses of this package work on shards.
        needs: what ``apply`` reads besides the updates, a subset of "params" (global parameters), "history" (those of
            the round before), "layers" (names and positions of the parameters), "root_update" (an update of the server
            on data of its own) and "outputs" (logits of the clients' models). Nothing else is computed.
        waits: number of times that ``apply`` waits for the device.
        weighs: whether the update is the mean of the kept updates by the decision's weights. False: the update is no
            weighted mean (such as a coordinate-wise median), and the weights only show which clients were kept.
    """

    name: str
    stages: tuple[str, ...]
    apply: Apply
    init: Init = no_state
    min_clients: int = 1
    pretrain: Pretrain | None = None
    num_uniforms: Uniforms = no_uniforms
    needs_all_columns: bool | None = None
    weighs: bool = True
    needs: frozenset[str] = frozenset()
    waits: int = 0

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.needs) - set(NEEDS)):
            raise UserError(f"defense '{self.name}' needs {', '.join(unknown)}; allowed: {', '.join(NEEDS)}")
        if {"layers", "outputs"} & self.needs:
            object.__setattr__(self, "needs_all_columns", True)


def check_clients(defense: Defense, arguments: Mapping[str, object], clients: int) -> None:
    """Check that a round has enough clients for a defense's parameters.

    Args:
        defense: the defense.
        arguments: the parameters that the defense was built with, for the message.
        clients: number of clients per round.

    Raises:
        UserError: a round has fewer clients than ``defense.min_clients``.
    """
    if clients < defense.min_clients:
        given = " ".join([defense.name, *(f"{name}={value}" for name, value in arguments.items())])
        raise UserError(f"{given} needs at least {defense.min_clients} clients per round; got {clients}")


def normalised(updates: Updates, share_N: Tensor) -> Tensor:
    """Normalise shares over the valid clients.

    Args:
        updates: the round's updates.
        share_N: at least 0, any scale.

    Returns:
        ``(N,)`` float64 weights that sum to 1, or are all 0 if no valid client has a share.
    """
    share_N = torch.where(updates.valid_N, share_N, 0).to(torch.float64)
    total = share_N.sum()
    return torch.where(total > 0, share_N / torch.where(total > 0, total, 1), 0)


def decide(
    updates: Updates,
    share_N: Tensor,
    scores_N: Tensor,
    *,
    update_D: Tensor | None = None,
    stage_N: Tensor | None = None,
    state: Any = None,
    **trace: Tensor,
) -> Decision:
    """Build a decision from non-negative shares: normalise them over the valid clients and sum the updates once.

    ``w_i = share_i / sum share`` over the valid clients, ``update = sum w_i d_i``: the step does not shrink with the
    number of rejected clients. If every share is 0, the update is 0 and no client is kept.

    Args:
        updates: the round's updates.
        share_N: at least 0, any scale; 0 drops a client.
        scores_N: the defense's score of each client.
        update_D: the server update of a defense whose update is not a weighted mean, 0 if no client is kept; by
            default the weighted sum.
        stage_N: int64, stage that rejected each client (0: kept). Default: only non-finite updates are rejected.
        state: state for the next round; ``NoState()`` by default.
        trace: further tensors that explain the decision.

    Returns:
        the decision.
    """
    weights_N = normalised(updates, share_N)
    stage_N = torch.zeros_like(updates.client_ids_N) if stage_N is None else stage_N
    return Decision(
        update=updates.weighted_sum(weights_N) if update_D is None else update_D,
        kept=weights_N > 0,
        weights=weights_N,
        scores=scores_N,
        state=NoState() if state is None else state,
        trace={"stage": torch.where(updates.valid_N, stage_N, NONFINITE), **trace},
    )


def state_tensors(state: Any) -> dict[str, Tensor]:
    """Return the tensors of a state by name, for a checkpoint.

    Args:
        state: frozen dataclass of tensors.

    Returns:
        field name -> tensor.
    """
    return {item.name: getattr(state, item.name) for item in fields(state)}


def columns_of(state: Any) -> set[str]:
    """Return the names of the tensors that a state declares as ``BY_COLUMN``.

    Args:
        state: frozen dataclass of tensors.

    Returns:
        their names.
    """
    return {item.name for item in fields(state) if "by_column" in item.metadata}


def restore_state(fresh: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Rebuild a state from stored tensors.

    Args:
        fresh: a state from ``init``; it gives the type, shapes, dtypes and devices.
        tensors: stored tensors, as from ``state_tensors``.

    Returns:
        the stored state, on the devices of ``fresh``.

    Raises:
        ValueError: names, shapes or dtypes do not match.
    """
    wanted = state_tensors(fresh)
    kinds = [{name: (value.shape, value.dtype) for name, value in held.items()} for held in (wanted, tensors)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"the stored state holds {sorted(tensors)}, expected {sorted(wanted)} in their shapes and dtypes"
        )
    device = {name: value.device for name, value in wanted.items()}
    return type(fresh)(**{name: value.to(device[name]) for name, value in tensors.items()})
