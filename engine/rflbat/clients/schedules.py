"""Learning rate schedules over the rounds of a run."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from rflbat.errors import UserError


@dataclass(frozen=True)
class LrSchedule:
    """A factor of the clients' learning rate that depends on the round.

    Args:
        name: registry name.
        factor: (round from 0, rounds of the run) -> factor, above 0.
    """

    name: str
    factor: Callable[[int, int], float]


def _share(schedule: str, name: str, value: float) -> float:
    if not 0 < value <= 1:
        raise UserError(f"lr schedule '{schedule}': {name}={value} is out of range; allowed: above 0, at most 1")
    return value


def constant() -> LrSchedule:
    """Keep the learning rate in all rounds.

    Returns:
        the schedule.

    Example:
        >>> constant().factor(7, 10)
        1.0
    """
    return LrSchedule("constant", lambda number, rounds: 1.0)


def step(*, every: int, factor: float = 0.1) -> LrSchedule:
    """Multiply the learning rate by ``factor`` after every ``every`` rounds: ``factor ** (round // every)``.

    Args:
        every: rounds between two changes, at least 1.
        factor: above 0, at most 1 (0.1).

    Returns:
        the schedule.

    Raises:
        UserError: a value is out of range.

    Example:
        >>> [step(every=2, factor=0.5).factor(number, 5) for number in range(5)]
        [1.0, 1.0, 0.5, 0.5, 0.25]

    Source: torch.optim.lr_scheduler.StepLR.
    """
    if every < 1:
        raise UserError(f"lr schedule 'step': every={every} is out of range; allowed: at least 1 round")
    _share("step", "factor", factor)
    return LrSchedule("step", lambda number, rounds: factor ** (number // every))


def cosine(*, last: float = 0.01) -> LrSchedule:
    """Let the learning rate fall along half a cosine, from 1 in the first round to ``last`` in the last one.

    ``last + (1 - last) * (1 + cos(pi * t)) / 2`` with ``t = round / (rounds - 1)``.

    Args:
        last: factor of the last round, above 0, at most 1 (0.01).

    Returns:
        the schedule.

    Raises:
        UserError: the value is out of range.

    Example:
        >>> [round(cosine(last=0.5).factor(number, 3), 2) for number in range(3)]
        [1.0, 0.75, 0.5]

    Source: Loshchilov and Hutter 2017, "SGDR: Stochastic gradient descent with warm restarts", equation 5.
    """
    _share("cosine", "last", last)

    def factor(number: int, rounds: int) -> float:
        return last + (1 - last) * (1 + math.cos(math.pi * number / max(1, rounds - 1))) / 2

    return LrSchedule("cosine", factor)


def exp(*, factor: float = 0.99) -> LrSchedule:
    """Multiply the learning rate by ``factor`` after every round: ``factor ** round``.

    Args:
        factor: above 0, at most 1 (0.99).

    Returns:
        the schedule.

    Raises:
        UserError: the value is out of range.

    Example:
        >>> exp(factor=0.5).factor(2, 10)
        0.25

    Source: torch.optim.lr_scheduler.ExponentialLR.
    """
    _share("exp", "factor", factor)
    return LrSchedule("exp", lambda number, rounds: factor**number)
