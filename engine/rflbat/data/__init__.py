"""Data sets, held whole on one device, and the division of their training samples among clients."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rflbat.data.torch_pairs import from_torch

__all__ = ["from_torch"]


def __getattr__(name: str) -> Any:
    """Import ``from_torch`` when it is first used: torch takes seconds, and the registry does not need it."""
    if name != "from_torch":
        raise AttributeError(f"module 'rflbat.data' has no attribute {name!r}")
    from rflbat.data.torch_pairs import from_torch

    globals()[name] = from_torch
    return from_torch
