"""Every local rule by name: one file and one row each."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rflbat.arguments import check_arguments, lookup
from rflbat.registry import Registry

if TYPE_CHECKING:
    from rflbat.clients.rules.base import LocalRule

LOCAL_RULES: "Registry[Callable[..., LocalRule]]" = Registry(
    "local rule",
    "rflbat.local_rules",
    "rflbat.clients.rules.base:LocalRule",
    {
        "fedprox": "rflbat.clients.rules.fedprox:fedprox",
        "pgd": "rflbat.clients.rules.pgd:pgd",
        "constrain_and_scale": "rflbat.clients.rules.constrain_and_scale:constrain_and_scale",
    },
)


def make_rule(name: str | None, arguments: Mapping[str, object]) -> "LocalRule | None":
    """Build a local rule by name.

    Args:
        name: a key of ``LOCAL_RULES``; None for plain training.
        arguments: its parameters, text allowed.

    Returns:
        the rule, or None.

    Raises:
        UserError: an unknown name or parameter, or a value that does not fit.
    """
    if name is None:
        return None
    make = lookup("local rule", LOCAL_RULES, name)
    return make(**check_arguments(f"local rule '{name}'", make, arguments))
