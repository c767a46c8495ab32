"""What the battery tests: a defense, and updates that suit it.

Axes: N clients of the round, D parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rflbat.aggregation import aggregate
from rflbat.defenses.base import Decision, Defense
from rflbat.defenses.registry import make_defense

Array = NDArray[np.float64]
PARAMETERS = 101
"""Parameters D of the updates that the battery makes: no multiple of anything."""


def scattered(clients: int, seed: int) -> Array:
    """Make updates of noise, a third of which also pulls one way, so that neither distances nor cosines are all alike.

    Args:
        clients: N.
        seed: of the noise.

    Returns:
        ``(N, D)`` numbers that float32 holds exactly.
    """
    rng = np.random.default_rng(seed)
    updates_ND = rng.standard_normal((clients, PARAMETERS))
    updates_ND[: clients // 3] += 0.6 * rng.standard_normal(PARAMETERS)
    return rng.permutation(updates_ND).astype(np.float32).astype(np.float64)


@dataclass(frozen=True)
class Subject:
    """A defense under test.

    Args:
        name: as ``--defense`` takes it.
        parameters: what it is made with.
        make: (clients, seed) -> updates ``(N, D)`` that suit it.
        clean: for a defense that learns before the first round: its clean updates, ``(M, D)``.
        untied: from how many clients on their order does not matter; below, the method's ties are decided by it.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[[int, int], Array] = scattered
    clean: Callable[[], Array] | None = None
    untied: int = 1

    @cached_property
    def defense(self) -> Defense:
        """The defense itself."""
        return make_defense(self.name, self.parameters)

    @cached_property
    def trained(self) -> Any:
        """The state before the first round; None for a defense that learns nothing before it."""
        if self.clean is None:
            return None
        clean_MD = self.clean()
        return aggregate(clean_MD, self.name, clean=clean_MD, **self.parameters).state

    def decide(self, updates_ND: Any, dtype: torch.dtype = torch.float64, **more: Any) -> Decision:
        """Aggregate under the defense; ``more`` goes to ``rflbat.aggregate``."""
        more.setdefault("state", self.trained)
        return aggregate(torch.as_tensor(updates_ND).to(dtype), self.name, **self.parameters, **more)

    def stages_of(self, decision: Decision) -> list[str]:
        """Name the stage at which each client fell."""
        return [self.defense.stages[at] for at in decision.trace["stage"].tolist()]


def named(name: str) -> Subject:
    """Make the subject of a defense that a test run names.

    Args:
        name: an entry point, ``module:function``, or ``module.function``.

    Returns:
        the subject; a defense that learns first gets noise to learn from.

    Raises:
        UserError: there is none.
    """
    if ":" not in name and "." in name:
        name = ":".join(name.rsplit(".", 1))
    learns = make_defense(name, {}).pretrain is not None
    return Subject(name, clean=(lambda: scattered(60, 0)) if learns else None)
