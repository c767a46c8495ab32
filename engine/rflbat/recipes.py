"""Ready-made experiments: functions that return configurations."""

from collections.abc import Callable

from rflbat.config import Experiment


def smoke() -> Experiment:
    """RFLBAT against half of 100 clients on the embedded digits: seconds, no network."""
    return Experiment(dataset="digits", rounds=30)


def mnist() -> Experiment:
    """The paper's MNIST setting: 100 clients, logistic regression, half of them malicious, IID."""
    return Experiment(dataset="mnist")


RECIPES: dict[str, Callable[[], Experiment]] = {
    "smoke": smoke,
    "mnist": mnist,
}
