"""The pytest plugin: ``pytest --rflbat-battery NAME`` adds the tests that every member of the kind of NAME passes."""

import sys
from pathlib import Path
from typing import Any

import pytest

from rflbat.attacks.registry import ATTACKS
from rflbat.defenses.registry import DEFENSES
from rflbat.errors import UserError
from rflbat.models.registry import MODELS
from rflbat.registry import Registry

HERE = Path(__file__).parent
BATTERIES: dict[str, Registry[Any]] = {"defense": DEFENSES, "attack": ATTACKS, "model": MODELS}
"""Kind -> registry; its battery is the file ``KIND_battery.py``."""
NAMED = pytest.StashKey[dict[str, list[str]]]()
"""Kind -> members that the command line names."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``--rflbat-battery``."""
    parser.getgroup("rflbat").addoption(
        "--rflbat-battery",
        action="append",
        default=[],
        metavar="NAME",
        help="test a defense, an attack or a model: module:function, module.function or an entry point; repeatable",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Add the battery to the collected files. Modules are also found in the current folder, as on the command line."""
    names, here = config.getoption("--rflbat-battery"), str(config.invocation_params.dir)
    if names and here not in sys.path:
        sys.path.append(here)
    found: dict[str, list[str]] = {kind: [] for kind in BATTERIES}
    for text in names:
        name = text if ":" in text or "." not in text else ":".join(text.rsplit(".", 1))
        try:
            found[kind_of(name)].append(name)
        except UserError as error:
            raise pytest.UsageError(f"--rflbat-battery {text}: {error}") from None
    config.stash[NAMED] = found
    config.args += [str(HERE / f"{kind}_battery.py") for kind, members in found.items() if members]


def kind_of(name: str) -> str:
    """Return the kind of a member by the type that its function is annotated to return.

    Args:
        name: a name of a registry, an entry point, or ``module:function``.

    Returns:
        a key of ``BATTERIES``.

    Raises:
        UserError: there is no such function, or it makes neither a defense nor an attack nor a model.

    Example:
        >>> kind_of("krum"), kind_of("rflbat.models.cnn:cnn")
        ('defense', 'model')
    """
    refusals = []
    for kind, registry in BATTERIES.items():
        try:
            registry[name]
        except KeyError:
            refusals.append(f"unknown {kind} {name!r}")
        except UserError as error:
            refusals.append(str(error))
        else:
            return kind
    wrong_type = [refusal for refusal in refusals if "must be annotated" in refusal]
    if len(wrong_type) == len(refusals):
        raise UserError(f"{name!r} must be annotated to return Defense, Attack or Model")
    raise UserError(next(refusal for refusal in refusals if refusal not in wrong_type))
