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
    """Give every case, W1 to W6 in this order."""
    parts = (training_cases, defense_cases, shadow_cases, round_cases, growth_cases, client_cases)
    made: Iterator[Case] = (case for part in parts for case in part())
    return {case.name: case for case in made}


def case_named(name: str) -> Case:
    """Give one case.

    Raises:
        KeyError: there is none.
    """
    return cases()[name]


def chosen(words: Sequence[str]) -> list[Case]:
    """Give the cases that words name: a whole name, or what stands in front of one of its "-".

    Args:
        words: such as "W4", "W4-krum" or "W4-krum-100x7850"; none for all.

    Raises:
        ValueError: a word names nothing.

    Example:
        >>> [case.name for case in chosen(["W1", "W4-krum-100x7850"])]
        ['W1', 'W4-krum-100x7850']
    """
    for word in words:
        if not any(_starts(name, word) for name in cases()):
            known = ", ".join(dict.fromkeys(case.group for case in cases().values()))
            raise ValueError(f"no case {word!r}; known: {known}, each with its cases by name, such as W4-krum")
    return [case for name, case in cases().items() if not words or any(_starts(name, word) for word in words)]


def _starts(name: str, word: str) -> bool:
    return f"{name}-".startswith(f"{word}-")
