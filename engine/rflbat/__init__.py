"""rflbat: batched simulation of federated learning under backdoor attack, and the server defenses against it."""

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
