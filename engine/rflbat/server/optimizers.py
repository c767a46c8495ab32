"""Server optimizers: the update of a round is a pseudo-gradient, and the server takes a step along it.

Axes: D parameters.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rflbat.errors import UserError


@dataclass(frozen=True)
class ServerOptimizer:
    """A pair of pure functions, column by column.

    Args:
        name: registry name.
        init: (parameters ``(D,)``) -> state before the first round, a frozen dataclass of tensors; None without state.
        apply: (update ``(D,)``, state, server learning rate) -> step ``(D,)`` that is added to the global parameters,
            and the next state.
    """

    name: str
    init: Callable[[Tensor], Any]
    apply: Callable[[Tensor, Any, float], tuple[Tensor, Any]]


@dataclass(frozen=True)
class Velocity:
    """Running sum of updates.

    Args:
        first_D: the sum.
    """

    first_D: Tensor


@dataclass(frozen=True)
class Moments:
    """Running moments of updates.

    Args:
        first_D: mean of the updates.
        second_D: mean or sum of their squares.
    """

    first_D: Tensor
    second_D: Tensor


def _share(optimizer: str, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"server optimizer '{optimizer}': {name}={value} is out of range; allowed: 0 to below 1")


def sgd() -> ServerOptimizer:
    """Add the update times the server's learning rate: ``p <- p + lr * d``.

    Returns:
        the optimizer.

    Example:
        >>> sgd().apply(torch.tensor([2.0]), None, 0.5)[0].tolist()
        [1.0]

    Source: McMahan et al. 2017, algorithm 1 (with a learning rate of 1).
    """
    return ServerOptimizer("sgd", lambda params_D: None, lambda update_D, state, lr: (update_D * lr, state))


def momentum(*, beta: float = 0.9) -> ServerOptimizer:
    """Add a running sum of the updates: ``m <- beta * m + d``; ``p <- p + lr * m``.

    Args:
        beta: weight of the earlier updates, 0 to below 1 (0.9).

    Returns:
        the optimizer.

    Raises:
        UserError: beta is out of range.

    Example:
        >>> optimizer = momentum(beta=0.5)
        >>> state = optimizer.init(torch.zeros(1))
        >>> step, state = optimizer.apply(torch.tensor([1.0]), state, 1.0)
        >>> optimizer.apply(torch.tensor([1.0]), state, 1.0)[0].tolist()
        [1.5]

    Source: Hsu, Qi and Brown 2019, "Measuring the effects of non-identical data distribution for federated visual
    classification", section 4.3 (FedAvgM); torch.optim.SGD has the same convention.
    """
    _share("momentum", beta=beta)

    def init(params_D: Tensor) -> Velocity:
        return Velocity(torch.zeros_like(params_D))

    def apply(update_D: Tensor, state: Velocity, lr: float) -> tuple[Tensor, Velocity]:
        first_D = state.first_D * beta + update_D
        return first_D * lr, Velocity(first_D)

    return ServerOptimizer("momentum", init, apply)


def _adaptive(name: str, second: Callable[[Tensor, Tensor], Tensor], beta1: float, tau: float) -> ServerOptimizer:
    """Build an optimizer of the FedOpt family: ``p <- p + lr * m / (sqrt(v) + tau)``."""
    _share(name, beta1=beta1)
    if not 0 < tau < math.inf:
        raise UserError(f"server optimizer '{name}': tau={tau} is out of range; allowed: finite numbers above 0")

    def init(params_D: Tensor) -> Moments:
        return Moments(torch.zeros_like(params_D), torch.full_like(params_D, tau**2))

    def apply(update_D: Tensor, state: Moments, lr: float) -> tuple[Tensor, Moments]:
        first_D = state.first_D * beta1 + update_D * (1 - beta1)
        second_D = second(state.second_D, update_D.square())
        return first_D / (second_D.sqrt() + tau) * lr, Moments(first_D, second_D)

    return ServerOptimizer(name, init, apply)


def adam(*, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> ServerOptimizer:
    """FedAdam: ``v <- beta2 * v + (1 - beta2) * d^2``, without bias correction.

    ``m <- beta1 * m + (1 - beta1) * d``; ``p <- p + lr * m / (sqrt(v) + tau)``; v starts at ``tau^2``. A step moves a
    coordinate by up to about ``lr``, so ``--server-lr`` is small, such as 0.01.

    Args:
        beta1: weight of the earlier mean, 0 to below 1 (0.9).
        beta2: weight of the earlier squares, 0 to below 1 (0.99).
        tau: degree of adaptivity, above 0 (1e-3).

    Returns:
        the optimizer.

    Raises:
        UserError: a value is out of range.

    Example:
        >>> optimizer = adam(beta1=0.0, beta2=0.0, tau=1.0)
        >>> optimizer.apply(torch.tensor([3.0]), optimizer.init(torch.zeros(1)), 1.0)[0].tolist()
        [0.75]

    Source: Reddi et al. 2021, "Adaptive federated optimization", algorithm 2.
    """
    _share("adam", beta2=beta2)
    return _adaptive("adam", lambda second_D, square_D: second_D * beta2 + square_D * (1 - beta2), beta1, tau)


def yogi(*, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> ServerOptimizer:
    """FedYogi: ``v <- v - (1 - beta2) * d^2 * sign(v - d^2)``; otherwise as ``adam``.

    Args:
        beta1: weight of the earlier mean, 0 to below 1 (0.9).
        beta2: one minus the rate at which v changes, 0 to below 1 (0.99).
        tau: degree of adaptivity, above 0 (1e-3).

    Returns:
        the optimizer.

    Raises:
        UserError: a value is out of range.

    Example:
        >>> optimizer = yogi(beta1=0.0, beta2=0.0, tau=1.0)
        >>> optimizer.apply(torch.tensor([3.0]), optimizer.init(torch.zeros(1)), 1.0)[1].second_D.tolist()
        [10.0]

    Source: Reddi et al. 2021, "Adaptive federated optimization", algorithm 2.
    """
    _share("yogi", beta2=beta2)

    def second(second_D: Tensor, square_D: Tensor) -> Tensor:
        return second_D - (1 - beta2) * square_D * torch.sign(second_D - square_D)

    return _adaptive("yogi", second, beta1, tau)


def adagrad(*, beta1: float = 0.0, tau: float = 1e-3) -> ServerOptimizer:
    """FedAdagrad: ``v <- v + d^2``; otherwise as ``adam``.

    Args:
        beta1: weight of the earlier mean, 0 to below 1 (0).
        tau: degree of adaptivity, above 0 (1e-3).

    Returns:
        the optimizer.

    Raises:
        UserError: a value is out of range.

    Example:
        >>> optimizer = adagrad(tau=1.0)
        >>> optimizer.apply(torch.tensor([3.0]), optimizer.init(torch.zeros(1)), 1.0)[1].second_D.tolist()
        [10.0]

    Source: Reddi et al. 2021, "Adaptive federated optimization", algorithm 2.
    """
    return _adaptive("adagrad", torch.add, beta1, tau)
