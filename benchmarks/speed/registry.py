"""All cases by name."""

from collections.abc import Iterator, Sequence
from functools import cache

from benchmarks.speed.cases import Case
from benchmarks.speed.clients import client_cases
from benchmarks.speed.defenses import defense_cases
from benchmarks.speed.growth import growth_cases
from benchmarks.speed.rounds import round_cases
from benchmarks.speed.shadows import shadow_cases
from benchmarks.speed.training import training_cases


@cache
def cases() -> dict[str, Case]:
    """Return every case, W1 to W6 in this order."""
    parts = (training_cases, defense_cases, shadow_cases, round_cases, growth_cases, client_cases)
    made: Iterator[Case] = (case for part in parts for case in part())
    return {case.name: case for case in made}


def case_named(name: str) -> Case:
    """Return one case.

    Raises:
        KeyError: the name is unknown.
    """
    return cases()[name]


def chosen(words: Sequence[str]) -> list[Case]:
    """Return the cases that words select: by a whole name, or by the part of it before a "-".

    Args:
        words: such as "W4", "W4-krum" or "W4-krum-100x7850"; empty for all cases.

    Raises:
        ValueError: a word selects no case.

    Example:
        >>> [case.name for case in chosen(["W1", "W4-krum-100x7850"])]
        ['W1', 'W4-krum-100x7850']
    """
    for word in words:
        if not any(_starts(name, word) for name in cases()):
            known = ", ".join(dict.fromkeys(case.group for case in cases().values()))
            raise ValueError(f"no case {word!r}; known: {known}, and names of their cases, such as W4-krum")
    return [case for name, case in cases().items() if not words or any(_starts(name, word) for word in words)]


def _starts(name: str, word: str) -> bool:
    return f"{name}-".startswith(f"{word}-")
