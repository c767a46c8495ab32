"""The battery that ships as a pytest plugin, on every row of the registry."""

from rflbat.defenses.registry import DEFENSES
from rflbat.testing.defense_battery import *  # noqa: F403 - its tests are this module's
from rflbat.testing.subject import Subject
from tests.engine.defenses.cases import CASES

BATTERY_OF = [
    Subject(name, CASES[name].parameters, CASES[name].make, CASES[name].clean, CASES[name].untied, CASES[name].rescales)
    for name in DEFENSES
]
