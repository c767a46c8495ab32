"""The pytest plugin: adds the battery to a test run, for each defense that is named."""

from pathlib import Path

import pytest

BATTERY = Path(__file__).with_name("battery.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("rflbat").addoption(
        "--rflbat-battery",
        action="append",
        default=[],
        metavar="NAME",
        help="run rflbat's battery on a defense: module:function, module.function or an entry point; repeatable",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Add the file of the battery to what is collected."""
    if config.getoption("--rflbat-battery"):
        config.args.append(str(BATTERY))
