"""W6: how the time grows with the clients, N = 50 to 1,600, and with the parameters, D = 1e4 to 6e6."""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.speed.cases import Case
from benchmarks.speed.defenses import defense_case
from benchmarks.speed.training import OURS, PLAIN, training_case
from benchmarks.speed.workloads import WORKLOADS

CLIENTS = (50, 100, 200, 400, 800, 1_600)
PARAMETERS = (10_000, 100_000, 1_000_000, 6_000_000)
OTHER = (100_000, 100)
"""D of the cases with growing N; N of the cases with growing D."""
DEFENSES = ("rflbat", "multikrum", "geomed", "median")
"""One for each access pattern: all pairs and a clustering, all pairs, passes over points, columns."""


def growth_cases() -> Iterator[Case]:
    """Yield W6: training of the logistic regression by clients, then the defenses by clients and by parameters."""
    for clients in CLIENTS:
        workload = replace(WORKLOADS["W1"], clients=clients)
        title = f"logistic regression, {clients:,} clients, as W1"
        yield training_case(f"W6-training-{clients}x7850", title, workload, (OURS, PLAIN), 3)
    parameters, clients = OTHER
    shapes = dict.fromkeys([*((count, parameters) for count in CLIENTS), *((clients, size) for size in PARAMETERS)])
    for defense in DEFENSES:
        for shape in shapes:
            yield defense_case("W6", defense, *shape)
