"""Triton decides at its import whether it interprets: these tests need a process that was started for them."""

import os

import pytest

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The numpy interpreter warns of Inf or NaN where a device does not; masks discard such lanes."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))
