"""The contract of a defense: updates, state and draws in; a decision out. Nothing here waits for the device.

Axes: N clients of the round, D parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rflbat.errors import UserError
from rflbat.randomness import Draw
from rflbat_kernels import (
    Gram,
    RowSparse,
    cosines,
    distances_to_sum,
    gram,
    row_sparse_gram,
    row_sparse_weighted_sum,
    squared_distances,
    weighted_sum,
)

KEPT, NONFINITE = 0, 1
"""The first two stages of every defense: positions in ``Defense.stages``."""


@dataclass(frozen=True)
class Updates:
    """What a defense sees of a round.

    Every quantity that needs a pass over the matrix is computed once, when first asked for, so that several
    defenses can look at the same updates for the price of one matrix product.

    Args:
        values: updates (local minus global), any float type, as a dense ``(N, D)`` matrix or row-sparse; rows that are
            not valid may hold anything.
        sizes_N: number of samples of each client, float64.
        client_ids_N: int64, who sent each row; rows of one round are different clients.
        valid_N: bool, as ``finite_rows``: rows without NaN, Inf or a number beyond 1e100. The others are to be dropped
            before anything else.
        malicious_count: true number of malicious clients of the round, for ``f="true"`` alone.
    """

    values: Tensor | RowSparse
    sizes_N: Tensor
    client_ids_N: Tensor
    valid_N: Tensor
    malicious_count: Tensor | None = None

    @cached_property
    def matrix_ND(self) -> Tensor:
        """The updates written out, for a defense that looks at coordinates: N D numbers, however few were sent."""
        return self.values.dense() if isinstance(self.values, RowSparse) else self.values

    @property
    def dtype(self) -> torch.dtype:
        """Type of the updates' numbers."""
        return (self.values.matrix_NQ if isinstance(self.values, RowSparse) else self.values).dtype

    def weighted_sum(self, weights_N: Tensor) -> Tensor:
        """Compute ``sum_i w_i d_i`` without the rows of weight 0.

        Args:
            weights_N: finite, any float type.

        Returns:
            ``(D,)`` in the updates' own type.
        """
        if isinstance(self.values, RowSparse):
            return row_sparse_weighted_sum(weights_N, self.values)
        return weighted_sum(weights_N, self.values)

    @cached_property
    def gram(self) -> Gram:
        """Gram matrix of the valid rows about three origins, float64."""
        if isinstance(self.values, RowSparse):
            return row_sparse_gram(self.values, self.valid_N)
        return gram(self.values, self.valid_N)

    @cached_property
    def norms_N(self) -> Tensor:
        """``||d_i||`` float64, 0 for rows that are not valid: one pass over the matrix."""
        if isinstance(self.values, RowSparse):
            return self.gram.raw_NN.diagonal().sqrt()
        return distances_to_sum(torch.zeros_like(self.sizes_N), self.values, self.valid_N)

    @cached_property
    def squared_distances_NN(self) -> Tensor:
        """``||d_i - d_j||^2``, right for each pair however far away other rows lie."""
        return squared_distances(self.gram.anchored_NN)

    @cached_property
    def cosines_NN(self) -> Tensor:
        """``<d_i, d_j> / (||d_i|| ||d_j||)``, 0 where a row is zero."""
        return cosines(self.gram.raw_NN)


@dataclass(frozen=True)
class NoState:
    """State of a defense that remembers nothing."""


@dataclass(frozen=True)
class Decision:
    """What a defense decided.

    Args:
        update: ``(D,)``, what is added to the global parameters (times the server's learning rate).
        kept: ``(N,)`` bool, who contributes.
        weights: ``(N,)`` float64, aggregation weights; they sum to 1, or are all 0 if nobody is kept.
        scores: ``(N,)`` float64, the number by which the defense judged each client; its meaning is the defense's.
        state: state for the next round.
        trace: named tensors that explain the decision; ``trace["stage"]`` ``(N,)`` int64 gives the position in
            ``Defense.stages`` of the stage at which a client fell (0: kept).
    """

    update: Tensor
    kept: Tensor
    weights: Tensor
    scores: Tensor
    state: Any
    trace: Mapping[str, Tensor] = field(default_factory=dict)


Init = Callable[[int, int, torch.device], Any]
"""``init(clients, parameters, device)`` gives the state before the first round. Where the columns of the updates lie in
several processes, ``parameters`` is how many this one has."""
Apply = Callable[[Updates, Any, Draw], Decision]
Pretrain = Callable[[Tensor, Draw], Any]
"""``pretrain(clean (M, D), draw)`` gives the state before the first round, from updates that nobody attacked."""


Uniforms = Callable[[int, int], int]
"""``draw_source(clients, parameters)`` gives how many numbers one call of ``apply`` draws, at most."""


BY_COLUMN = {"by_column": True}
"""Metadata of a field of a state whose last axis is that of the parameters, with at most one other axis before it.

Where the columns of the updates lie in several processes, each remembers its own; a checkpoint holds them all."""


def no_uniforms(clients: int, parameters: int) -> int:
    """Say that nothing is drawn."""
    return 0


def no_state(clients: int, parameters: int, device: torch.device) -> NoState:
    """Give the state of a defense without memory."""
    return NoState()


@dataclass(frozen=True)
class Defense:
    """A pair of pure functions, as in optax: ``init`` makes a state, ``apply`` takes one and gives the next.

    Args:
        name: registry name.
        stages: names of the stages at which a client can fall; "kept" and "nonfinite" come first.
        apply: (updates, state, draw) -> decision.
        init: (clients, parameters, device) -> state, a frozen dataclass of tensors.
        min_clients: fewest clients of a round that its parameters admit.
        pretrain: (clean updates ``(M, D)``, draw) -> the state before the first round, in the shapes of ``init``, for
            a defense that learns what clean updates look like; None for all others. Non-finite rows are to be ignored.
        num_uniforms: (clients of the round, parameters) -> how many uniforms ``apply`` draws, so that they are on the
            device before it asks. Every process has all of them.
        needs_all_columns: whether ``apply`` needs complete update vectors. False: it works on a column shard, since
            every reduction over D goes through ``rflbat_kernels.sharding``. None (default for third parties): unknown,
            refused under torchrun; the defenses of this package work on shards.
        weighs: the update is the mean of the kept updates by the decision's weights. False: the update is no weighted
            mean, as the median of each coordinate, and the weights only show which clients were kept.
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


def check_clients(defense: Defense, arguments: Mapping[str, object], clients: int) -> None:
    """Refuse a round that is too small for a defense's parameters.

    Args:
        defense: the defense.
        arguments: the parameters it was made with, for the message.
        clients: clients of a round.

    Raises:
        UserError: they are too few.
    """
    if clients < defense.min_clients:
        given = " ".join([defense.name, *(f"{name}={value}" for name, value in arguments.items())])
        raise UserError(f"{given} needs a round of at least {defense.min_clients} clients; here are {clients} clients")


def decide(
    updates: Updates,
    share_N: Tensor,
    scores_N: Tensor,
    *,
    stage_N: Tensor | None = None,
    state: Any = None,
    **trace: Tensor,
) -> Decision:
    """Turn non-negative shares into a decision: normalise over the kept, and sum the updates once.

    ``w_i = share_i / sum share`` over the valid clients, ``update = sum w_i d_i``: the step never shrinks with the
    number of rejected clients. If every share is 0 the update is 0 and nobody is kept.

    Args:
        updates: the round's updates.
        share_N: at least 0, any scale; 0 drops a client.
        scores_N: what the defense judged by.
        stage_N: int64, stage at which each client fell; by default only non-finite clients fall.
        state: state for the next round; ``NoState()`` by default.
        trace: further tensors that explain the decision.

    Returns:
        the decision.
    """
    share_N = torch.where(updates.valid_N, share_N, 0).to(torch.float64)
    total = share_N.sum()
    weights_N = torch.where(total > 0, share_N / torch.where(total > 0, total, 1), 0)
    stage_N = torch.zeros_like(updates.client_ids_N) if stage_N is None else stage_N
    return Decision(
        update=updates.weighted_sum(weights_N),
        kept=weights_N > 0,
        weights=weights_N,
        scores=scores_N,
        state=NoState() if state is None else state,
        trace={"stage": torch.where(updates.valid_N, stage_N, NONFINITE), **trace},
    )


def state_tensors(state: Any) -> dict[str, Tensor]:
    """Name the tensors of a state, for a checkpoint.

    Args:
        state: frozen dataclass of tensors.

    Returns:
        field name -> tensor.
    """
    return {item.name: getattr(state, item.name) for item in fields(state)}


def columns_of(state: Any) -> set[str]:
    """Name the tensors of a state that are declared as ``BY_COLUMN``.

    Args:
        state: frozen dataclass of tensors.

    Returns:
        their names.
    """
    return {item.name for item in fields(state) if "by_column" in item.metadata}


def restore_state(fresh: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put stored tensors into a state of the same kind.

    Args:
        fresh: what ``init`` gives.
        tensors: what ``state_tensors`` gave.

    Returns:
        the stored state.

    Raises:
        ValueError: names, shapes or types do not fit.
    """
    wanted = state_tensors(fresh)
    kinds = [{name: (value.shape, value.dtype) for name, value in held.items()} for held in (wanted, tensors)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"the stored state holds {sorted(tensors)}, not {sorted(wanted)} in their shapes and types")
    device = {name: value.device for name, value in wanted.items()}
    return type(fresh)(**{name: value.to(device[name]) for name, value in tensors.items()})
