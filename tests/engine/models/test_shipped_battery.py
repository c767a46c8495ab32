"""The battery that ships as a pytest plugin, on every model of the registry."""

from rflbat.models.registry import MODELS
from rflbat.testing.model_battery import *  # noqa: F403 - its tests are this module's

NARROW = {"resnet": "resnet(width=8)"}
BATTERY_OF = [*(NARROW.get(name, name) for name in MODELS), "resnet(width=6,norm=group)", "transformer(dropout=0.25)"]
