"""Parameters by which a defense works less, for tests of something else."""

from typing import Any

from rflbat.defenses.registry import DEFENSES, make_defense

BRIEF: dict[str, dict[str, Any]] = {"geomed": {"passes": 5}, "deepsight": {"samples": 20}}
"""Every pass is the same, and every noise input: a few show what all would."""
NEEDING = [name for name in DEFENSES if make_defense(name, {}).needs]
"""The defenses that need more than the updates."""


def briefly(settings: dict[str, Any]) -> dict[str, Any]:
    """Add the parameters of DeepSight's shorter form to settings of a run that name none."""
    own = BRIEF["deepsight"] if settings.get("defense") == "deepsight" else {}
    return {**settings, "defense_args": settings.get("defense_args") or own}
