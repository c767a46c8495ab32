"""Shadow defenses: further defenses that decide on the round's updates without changing the run.

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
    """A shadow defense's decision in a round, and the measures of the global model under it.

    Args:
        name: name of the defense.
        decision: the decision, which the run does not follow.
        measures: as ``evaluation.evaluate``, of the global model after one server update by this decision; None in a
            round that was not evaluated.
    """

    name: str
    decision: Decision
    measures: Tensor | None = None


def run_shadows(
    shadows: Sequence[Defense], states: Sequence[Any], updates: Updates, uniforms_U: Tensor
) -> list[ShadowOutcome]:
    """Let each shadow defense decide on the round's updates, from its own state.

    A shadow sees the same uniforms that it would get as the run's own defense. The Gram matrix is computed once for
    all.

    Args:
        shadows: the defenses.
        states: their states after earlier rounds.
        updates: the round's updates.
        uniforms_U: the round's uniforms, on the device.

    Returns:
        one outcome per shadow.
    """
    return [
        ShadowOutcome(shadow.name, shadow.apply(updates, state, replayed(uniforms_U)))
        for shadow, state in zip(shadows, states, strict=True)
    ]
