"""Field and folder names in run folders that several parts of the engine share."""

MEASURES = ("accuracy", "attack_success_rate", "attack_success_rate_inclusive")
"""Rates of an evaluated round; None in a round without evaluation."""
LOCAL = "local_attack_success_rates"
"""Attack success rate of each local trigger of a distributed backdoor."""
DETECTION = ("precision", "recall", "false_positive_rate", "malicious_weight")
"""How well a round's decision separates malicious from benign clients."""
CELLS = "cells"
"""Subfolder of a sweep that holds the run folders."""
