"""Names of the fields of a run folder's records that several parts of the engine write or read."""

MEASURES = ("accuracy", "attack_success_rate", "attack_success_rate_inclusive")
"""Rates of an evaluated round; None in a round that was not evaluated."""
LOCAL = "local_attack_success_rates"
"""Attack success rate of each local trigger of a distributed backdoor."""
DETECTION = ("precision", "recall", "false_positive_rate", "malicious_weight")
"""How well a round's decision separates malicious from benign clients."""
CELLS = "cells"
"""Folder of the runs in the folder of a sweep."""
