"""Functional models. ``from_module`` makes one of any ``torch.nn.Module``."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rflbat.models.modules import from_module

__all__ = ["from_module"]


def __getattr__(name: str) -> Any:
    """Import ``from_module`` when it is first used: torch takes seconds, and the registry does not need it."""
    if name != "from_module":
        raise AttributeError(f"module 'rflbat.models' has no attribute {name!r}")
    from rflbat.models.modules import from_module

    globals()[name] = from_module
    return from_module
