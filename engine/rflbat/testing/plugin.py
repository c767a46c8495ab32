"""The pytest plugin that adds the battery to a test run, for each named defense."""

import sys
from pathlib import Path

import pytest

from rflbat.errors import UserError
from rflbat.testing.subject import named

BATTERY = Path(__file__).with_name("battery.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``--rflbat-battery``."""
    parser.getgroup("rflbat").addoption(
        "--rflbat-battery",
        action="append",
        default=[],
        metavar="NAME",
        help="run rflbat's test battery on a defense: module:function, module.function or an entry point; repeatable",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Add the battery to the collected files. Modules are also found in the current folder, as on the command line."""
    names, here = config.getoption("--rflbat-battery"), str(config.invocation_params.dir)
    if not names:
        return
    if here not in sys.path:
        sys.path.append(here)
    for name in names:
        try:
            named(name)
        except UserError as error:
            raise pytest.UsageError(f"--rflbat-battery {name}: {error}") from None
    config.args.append(str(BATTERY))
