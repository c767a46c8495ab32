"""The battery that ships as a pytest plugin, on every attack of the registry."""

from rflbat.attacks.registry import ATTACKS
from rflbat.testing.attack_battery import *  # noqa: F403 - its tests are this module's

BATTERY_OF = list(ATTACKS)
