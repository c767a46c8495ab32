"""The battery that ships as a pytest plugin, on every model of the registry."""

from rflbat.models.registry import MODELS
from rflbat.testing.model_battery import *  # noqa: F403 - its tests are this module's

BATTERY_OF = list(MODELS)
