"""rflbat: batched simulation of federated learning under backdoor attack, and the server defenses against it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rflbat.aggregation import aggregate
    from rflbat.defenses.base import Decision, Defense, Updates
    from rflbat.errors import UserError
    from rflbat.experiment.config import Experiment
    from rflbat.experiment.recipes import RECIPES
    from rflbat.simulation.loop import Interrupted, Result, resume, run

__all__ = [
    "RECIPES",
    "Decision",
    "Defense",
    "Experiment",
    "Interrupted",
    "Result",
    "Updates",
    "UserError",
    "aggregate",
    "resume",
    "run",
]

_MODULES = {
    "aggregate": "rflbat.aggregation",
    "Decision": "rflbat.defenses.base",
    "Defense": "rflbat.defenses.base",
    "Updates": "rflbat.defenses.base",
    "UserError": "rflbat.errors",
    "Experiment": "rflbat.experiment.config",
    "RECIPES": "rflbat.experiment.recipes",
    "Interrupted": "rflbat.simulation.loop",
    "Result": "rflbat.simulation.loop",
    "resume": "rflbat.simulation.loop",
    "run": "rflbat.simulation.loop",
}
"""Public name -> module, imported when the name is first used: torch takes seconds, and not every command needs it."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'rflbat' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
