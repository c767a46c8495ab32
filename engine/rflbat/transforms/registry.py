"""Every transform by name: one file and one row each."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from rflbat.arguments import calls, check_arguments, lookup
from rflbat.registry import Registry

if TYPE_CHECKING:
    from rflbat.transforms.base import Transform

TRANSFORMS: "Registry[Callable[..., Transform]]" = Registry(
    "transform",
    "rflbat.transforms",
    "rflbat.transforms.base:Transform",
    {
        "nnm": "rflbat.transforms.nnm:nnm",
        "bucketing": "rflbat.transforms.bucketing:bucketing",
        "clip": "rflbat.transforms.clip:clip",
    },
)


def make_transforms(text: str | None) -> "tuple[Transform, ...]":
    """Build the transforms that a text names.

    Args:
        text: ``NAME,NAME(parameter=value,...)``, in the order in which they are applied; None for none.

    Returns:
        the transforms.

    Raises:
        UserError: an unknown name or parameter, or a value that does not fit.
    """
    made = []
    for _, name, arguments in calls(text or "", "before"):
        make = lookup("transform", TRANSFORMS, name)
        made.append(make(**check_arguments(f"transform '{name}'", make, arguments)))
    return tuple(made)
