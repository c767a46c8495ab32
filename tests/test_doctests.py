"""Every example in a docstring runs, and every public docstring has what the house asks of it."""

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

import rflbat
import rflbat_kernels
from rflbat.attacks.registry import ATTACKS
from rflbat.defenses.registry import DEFENSES
from rflbat.models.registry import MODELS
from rflbat_kernels.dispatch import IMPLEMENTATIONS

PACKAGES = (rflbat, rflbat_kernels)
MODULES = [package.__name__ for package in PACKAGES] + [
    found.name for package in PACKAGES for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]
ELEMENTARY = {
    *(f"{op}.{by}" for op in ("gram", "weighted_sum", "distances_to_sum", "finite_rows") for by in ("cpu", "torch")),
    *("pairwise.torch", "median.torch", "inner_products.torch"),
}
"""Kernels that are a definition, not a published method: they have no source to name."""
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


def members() -> Iterator[Any]:
    """Every member of a registry: what `rflbat show` prints the docstring of, and the kernels."""
    rows: dict[str, Callable[..., Any]] = {**MODELS, **ATTACKS, **DEFENSES}
    for operation, functions in IMPLEMENTATIONS.items():
        rows |= {f"{operation}.{name}": getattr(make, "func", make) for name, make in functions.items()}
    for name, make in rows.items():
        yield pytest.param(make, name not in ELEMENTARY, id=name)


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Functions, classes and methods that a module defines under a name without an underscore."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            yield name, value
            for part, inner in vars(value).items():
                if not part.startswith("_") and (inspect.isroutine(inner) or isinstance(inner, property)):
                    yield f"{name}.{part}", inner


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert results.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    counts = [sum(len(test.examples) for test in finder.find(importlib.import_module(name))) for name in MODULES]
    assert sum(count > 0 for count in counts) > len(MODULES) // 3


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert [part for part, value in public(module) if not (inspect.getdoc(value) or "").strip()] == []


def test_what_is_public_is_found() -> None:
    found = dict(public(importlib.import_module("rflbat.storage.run_folder")))
    assert {"RunFolder", "RunFolder.create", "RunFolder.figures", "RunFolder.truncate", "read_json"} <= set(found)
    assert "replacing" not in found


@pytest.mark.parametrize(("make", "sourced"), [*members()])
def test_members_of_registries_are_documented_in_full(make: Callable[..., Any], sourced: bool) -> None:
    page = inspect.getdoc(make) or ""
    wanted = ["Returns:", "Example:", *(["Source:"] if sourced else [])]
    if inspect.signature(make).parameters:
        wanted.append("Args:")
        given = page.partition("Args:")[2].partition("Returns:")[0]
        assert [name for name in inspect.signature(make).parameters if f"{name}:" not in given] == []
    assert [part for part in wanted if f"\n{part}" not in page] == []
    assert page.partition("\n")[0].endswith(".")


METHODS = {**ATTACKS, **DEFENSES}


@pytest.mark.parametrize("name", METHODS)
def test_defenses_and_attacks_say_what_they_take_for_granted_and_where_they_fail(name: str) -> None:
    page = inspect.getdoc(METHODS[name]) or ""
    for part in ("Conventions:", "Needs:", "Fails:"):
        told = page.partition(f"\n{part}\n")[2].partition("\n\n")[0]
        assert len(told.split()) >= 4, part
