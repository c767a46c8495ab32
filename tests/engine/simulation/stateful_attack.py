"""An attack with a state: its trigger moves by one column in each attacked round."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rflbat.attacks.base import Attack, SampleFormat


@dataclass(frozen=True)
class MovingState:
    """Number of attacked rounds so far.

    Args:
        count: 0-dim int64.
    """

    count: Tensor


def moving(samples: SampleFormat, scale: float, *, share: float = 0.5) -> Attack:
    """Light one column of the image, another one in each round."""
    columns_W = torch.arange(samples.shape[2], device=samples.device)

    def trigger_at(count: Tensor):
        lit_W = columns_W == count % len(columns_W)

        def trigger(x: Tensor, on_B: Tensor) -> Tensor:
            return torch.where(on_B[:, None, None, None] & lit_W, samples.high, x)

        return trigger

    def init(parameters: int, device: torch.device) -> MovingState:
        return MovingState(torch.zeros((), dtype=torch.int64, device=device))

    def triggers(state: MovingState):
        return (trigger_at(state.count),), trigger_at(state.count)

    start = trigger_at(torch.zeros((), dtype=torch.int64))
    return Attack(
        "moving",
        (start,),
        start,
        share,
        init=init,
        begin=lambda view, state, draw: MovingState(state.count + 1),
        triggers=triggers,
        needs_all_columns=False,
    )
