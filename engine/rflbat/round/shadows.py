"""Shadow defenses: further defenses that look at the round's updates and change nothing.

Axes: N clients of the round, D parameters, U uniforms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rflbat.defenses.base import Decision, Defense, Updates
from rflbat.randomness import replayed


@dataclass(frozen=True)
class ShadowOutcome:
    """What a shadow defense would have done in a round.

    Args:
        name: the defense.
        decision: what it would have decided.
        measures: as ``evaluation.evaluate`` of the global model one step later under this decision, or None in a
            round that was not evaluated.
    """

    name: str
    decision: Decision
    measures: Tensor | None = None


def run_shadows(
    shadows: Sequence[Defense], states: Sequence[Any], updates: Updates, uniforms_U: Tensor
) -> list[ShadowOutcome]:
    """Let each shadow defense decide on the round's updates, from its own memory and its own draws.

    The draws are those that the defense would get as the run's own. The Gram matrix is computed once for all.

    Args:
        shadows: the defenses.
        states: their memories of earlier rounds.
        updates: the round's updates.
        uniforms_U: the round's uniforms, on the device.

    Returns:
        one outcome each.
    """
    return [
        ShadowOutcome(shadow.name, shadow.apply(updates, state, replayed(uniforms_U)))
        for shadow, state in zip(shadows, states, strict=True)
    ]
