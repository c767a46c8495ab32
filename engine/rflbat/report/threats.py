"""Threat models in a sweep: what its attackers know, and the accuracy that untargeted attacks cost."""

from collections.abc import Mapping, Sequence
from typing import Any

THREAT = {"knowledge": "Knowledge of the attacker", "success": "Attack measured by"}
"""Entries of run.json that follow from the attack."""
OF_THE_ATTACK = frozenset({"malicious", "scale", "target", "roles"})
"""Settings without effect on the accuracy of a run without malicious clients, besides those named ``attack...``."""

Cells = Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]


def threat_config(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run, with the threat model of its attack.

    Args:
        run: the contents of run.json.

    Returns:
        the settings; the threat model is None for a run folder of an older version.

    Example:
        >>> threat_config({"config": {"attack": "ipm"}, "knowledge": "omniscient", "success": "untargeted"})
        {'attack': 'ipm', 'knowledge': 'omniscient', 'success': 'untargeted'}
    """
    return {**run.get("config", {}), **{name: run.get(name) for name in THREAT}}


def with_accuracy_lost(cells: Cells) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Add the accuracy that each untargeted attack costs: that of the run without malicious clients minus its own.

    The run without malicious clients has the same seed and all other settings. If there are several, because the sweep
    compares attacks, it is the one whose settings of the attack are equal too.

    Args:
        cells: (settings as of ``threat_config``, summary) of each finished run.

    Returns:
        the cells in their order, with ``accuracy_lost`` in the summaries of untargeted attacks, unless the sweep has no
        such run.

    Example:
        >>> config = {"attack": "ipm", "success": "untargeted"}
        >>> cells = [({**config, "malicious": share}, {"accuracy": rate}) for share, rate in ((0.0, 0.75), (0.2, 0.5))]
        >>> [summary.get("accuracy_lost") for _, summary in with_accuracy_lost(cells)]
        [None, 0.25]
    """
    clean: dict[tuple[str, bool], Mapping[str, Any]] = {}
    for config, summary in cells:
        if config.get("malicious") == 0 and summary.get("accuracy") is not None:
            for exact in (True, False):
                clean.setdefault((_others(config, exact), exact), summary)
    found: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    for config, summary in cells:
        partner = clean.get((_others(config, True), True)) or clean.get((_others(config, False), False))
        judged = config.get("success") == "untargeted" and config.get("malicious") != 0
        if partner is not None and judged and summary.get("accuracy") is not None:
            summary = {**summary, "accuracy_lost": partner["accuracy"] - summary["accuracy"]}
        found.append((config, summary))
    return found


def _others(config: Mapping[str, Any], exact: bool) -> str:
    """Name the settings that a run shares with the one without malicious clients."""

    def ignored(name: str) -> bool:
        of_attack = name in OF_THE_ATTACK or name in THREAT or name.startswith("attack")
        return name in ("malicious", "data_dir", "checkpoint_every") or (of_attack and not exact)

    return repr(sorted((name, repr(value)) for name, value in config.items() if not ignored(name)))
