"""A defense over nodes that come and go: each round judges those who replied, and memory goes by node.

Axes: N nodes that replied, C nodes seen so far, D parameters, M clean updates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from rflbat.defenses.base import Decision, Updates
from rflbat.defenses.registry import make_defense
from rflbat.errors import UserError
from rflbat.randomness import draw_source
from rflbat_kernels import finite_rows

CPU = torch.device("cpu")


def widened(state: Any, larger: Any) -> Any:
    """Copy a state into one of more clients: rows of clients seen stay theirs.

    Args:
        state: of the rounds before.
        larger: what ``init`` gives for more clients, or for as many.

    Returns:
        a state in the shapes of ``larger``; new rows are as ``init`` made them.
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
        defense: a name of ``rflbat list defenses``.
        params: its parameters.
        seed: key of the draws; each round draws others.
        clean: ``(M, D)`` updates of honest clients, for a defense that learns what such look like; else None.

    Raises:
        UserError: an unknown defense or parameter, or ``clean`` where it is not wanted or is missing.
    """

    def __init__(self, defense: str, params: Mapping[str, object], seed: int, clean: Tensor | None) -> None:
        self.defense = make_defense(defense, params)
        self.seed, self.rows, self.state = seed, dict[int, int](), None
        if (clean is None) != (self.defense.pretrain is None):
            raise UserError(
                f"{defense} does not learn from clean updates; leave out clean="
                if clean is not None
                else f"{defense} has to learn first what clean updates look like; give clean= an (M, D) tensor"
            )
        if clean is not None and self.defense.pretrain is not None:
            self.state = self.defense.pretrain(clean, draw_source(seed, "pretrain", 0, CPU))

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages at which a node can fall."""
        return self.defense.stages

    @torch.no_grad()
    def judge(self, nodes: Sequence[int], updates_ND: Tensor, sizes: Sequence[float], round_number: int) -> Decision:
        """Judge a round.

        Args:
            nodes: ids of the N nodes, each once.
            updates_ND: float32 or float64, local minus global; rows that are not finite are dropped.
            sizes: N numbers of samples, above 0.
            round_number: key of the draws.

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
