"""A defense over nodes that join and leave: each round judges the nodes that replied, with state stored by node.

Axes: N nodes that replied, C nodes seen so far, D parameters, M clean updates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from rflbat.defenses.base import Decision, Updates
from rflbat.defenses.registry import make_defense
from rflbat.defenses.server_view import in_words
from rflbat.errors import UserError
from rflbat.randomness import draw_source
from rflbat_kernels import finite_rows

CPU = torch.device("cpu")


def widened(state: Any, larger: Any) -> Any:
    """Copy a state into one for more clients; rows of known clients keep their values.

    Args:
        state: state after the earlier rounds.
        larger: a state from ``init`` for at least as many clients.

    Returns:
        a state in the shapes of ``larger``; new rows are as from ``init``.
    """
    held: dict[str, Tensor] = {}
    for item in fields(state):
        old, new = getattr(state, item.name), getattr(larger, item.name).clone()
        new[tuple(slice(0, size) for size in old.shape)] = old
        held[item.name] = new
    return type(state)(**held)


class NodeMemory:
    """A defense, its state, and the row of the state that belongs to each node.

    Args:
        defense: a name from ``rflbat list defenses``.
        params: its parameters.
        seed: key of the random draws, which differ in each round.
        clean: ``(M, D)`` updates of honest clients, for a defense that learns from clean updates; otherwise None.

    Raises:
        UserError: an unknown defense or parameter, or ``clean`` is missing or not applicable.
    """

    def __init__(self, defense: str, params: Mapping[str, object], seed: int, clean: Tensor | None) -> None:
        self.defense = make_defense(defense, params)
        if self.defense.needs:
            raise UserError(
                f"{defense} needs {in_words(self.defense.needs)}, which a node's message does not hold; "
                f"rflbat.aggregate takes it as an argument"
            )
        self.seed, self.rows, self.state = seed, dict[int, int](), None
        if (clean is None) != (self.defense.pretrain is None):
            raise UserError(
                f"{defense} does not learn from clean updates; omit clean="
                if clean is not None
                else f"{defense} needs clean updates to train on; pass clean= an (M, D) tensor"
            )
        if clean is not None and self.defense.pretrain is not None:
            self.state = self.defense.pretrain(clean, draw_source(seed, "pretrain", 0, CPU))

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages that can reject a node."""
        return self.defense.stages

    @torch.no_grad()
    def judge(self, nodes: Sequence[int], updates_ND: Tensor, sizes: Sequence[float], round_number: int) -> Decision:
        """Aggregate the updates of a round under the defense.

        Args:
            nodes: ids of the N nodes, without duplicates.
            updates_ND: float32 or float64, local minus global; non-finite rows are dropped.
            sizes: N numbers of samples, above 0.
            round_number: round, a key of the random draws.

        Returns:
            the decision; row i is ``nodes[i]``.
        """
        for node in nodes:
            self.rows.setdefault(node, len(self.rows))
        larger = self.defense.init(len(self.rows), updates_ND.shape[1], CPU)
        seen = Updates(
            values=updates_ND,
            sizes_N=torch.tensor(sizes, dtype=torch.float64),
            client_ids_N=torch.tensor([self.rows[node] for node in nodes]),
            valid_N=finite_rows(updates_ND),
        )
        before = larger if self.state is None else widened(self.state, larger)
        decision = self.defense.apply(seen, before, draw_source(self.seed, "defense", round_number, CPU))
        self.state = decision.state
        return decision
