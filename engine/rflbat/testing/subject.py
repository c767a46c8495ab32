"""Subjects of the battery: a defense, and updates that suit it.

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
from rflbat.defenses.given import NEEDED
from rflbat.defenses.registry import make_defense

Array = NDArray[np.float64]
PARAMETERS = 101
"""Number of parameters D of the battery's updates; a prime, so that it is no multiple of any block size."""


def scattered(clients: int, seed: int) -> Array:
    """Draw noise updates, a third of them with a common direction, so that neither distances nor cosines are all alike.

    Args:
        clients: N.
        seed: seed of the noise.

    Returns:
        ``(N, D)`` numbers that float32 holds exactly.
    """
    rng = np.random.default_rng(seed)
    updates_ND = rng.standard_normal((clients, PARAMETERS))
    updates_ND[: clients // 3] += 0.6 * rng.standard_normal(PARAMETERS)
    return rng.permutation(updates_ND).astype(np.float32).astype(np.float64)


def supplied(defense: Defense, parameters: int) -> dict[str, Any]:
    """Make what a defense needs besides the updates, as arguments of ``rflbat.aggregate``.

    The model is a hidden part that nothing reads, followed by an output layer of up to 4 classes and 10 inputs.

    Args:
        defense: the defense.
        parameters: D, at least 2 for a defense that needs layers.

    Returns:
        argument -> value, random numbers that depend on D alone; empty for a defense without needs.
    """
    rng = np.random.default_rng(parameters)
    classes = 4 if parameters >= 8 else max(1, parameters // 2)
    inputs = min(10, parameters // classes - 1)
    shapes = {"hidden": (parameters - classes * (inputs + 1),), "weight": (classes, inputs), "bias": (classes,)}
    values = {
        "params": torch.from_numpy(rng.standard_normal(parameters)),
        "previous": torch.from_numpy(rng.standard_normal(parameters)),
        "root": torch.from_numpy(rng.standard_normal(parameters)),
        "layers": shapes,
        "outputs": lambda named, x: x @ named["weight"].T + named["bias"],
        "sample_shape": (inputs,),
    }
    names = {name for need in defense.needs for name in NEEDED[need]}
    return {name: value for name, value in values.items() if name in names}


@dataclass(frozen=True)
class Subject:
    """A defense under test.

    Args:
        name: name as for ``--defense``.
        parameters: parameters of the defense.
        make: (clients, seed) -> updates ``(N, D)`` that suit it.
        clean: function that returns clean updates ``(M, D)``, for a defense that learns from them before the first
            round.
        untied: number of clients from which on their order does not matter; with fewer, the order breaks the method's
            ties.
        rescales: the defense scales updates by a factor of its own, so that identical updates give a multiple of that
            update.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[[int, int], Array] = scattered
    clean: Callable[[], Array] | None = None
    untied: int = 1
    rescales: bool = False

    @cached_property
    def defense(self) -> Defense:
        """The defense."""
        return make_defense(self.name, self.parameters)

    @cached_property
    def trained(self) -> Any:
        """State before the first round; None for a defense that does not learn before it."""
        if self.clean is None:
            return None
        clean_MD = self.clean()
        return aggregate(clean_MD, self.name, clean=clean_MD, **self.parameters).state

    def decide(self, updates_ND: Any, dtype: torch.dtype = torch.float64, **more: Any) -> Decision:
        """Aggregate under the defense; ``more`` is passed to ``rflbat.aggregate``."""
        more = {**supplied(self.defense, np.shape(updates_ND)[1]), "state": self.trained, **more}
        return aggregate(torch.as_tensor(updates_ND).to(dtype), self.name, **self.parameters, **more)

    def stages_of(self, decision: Decision) -> list[str]:
        """Return the name of the stage that rejected each client ("kept" if none did)."""
        return [self.defense.stages[at] for at in decision.trace["stage"].tolist()]


def named(name: str) -> Subject:
    """Build the subject of a defense by name.

    Args:
        name: an entry point, ``module:function``, or ``module.function``.

    Returns:
        the subject. A defense that learns before the first round gets noise as clean updates. One that needs an update
        of the server's own may rescale updates.

    Raises:
        UserError: no such defense exists.
    """
    if ":" not in name and "." in name:
        name = ":".join(name.rsplit(".", 1))
    defense = make_defense(name, {})
    clean = None if defense.pretrain is None else lambda: scattered(60, 0)
    return Subject(name, clean=clean, rescales="root_update" in defense.needs)
