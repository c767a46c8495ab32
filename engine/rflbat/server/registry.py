"""Every server optimizer by name: one function and one row each."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rflbat.arguments import check_arguments, lookup
from rflbat.registry import Registry

if TYPE_CHECKING:
    from rflbat.server.optimizers import ServerOptimizer

SERVER_OPTIMIZERS: "Registry[Callable[..., ServerOptimizer]]" = Registry(
    "server optimizer",
    "rflbat.server_optimizers",
    "rflbat.server.optimizers:ServerOptimizer",
    {name: f"rflbat.server.optimizers:{name}" for name in ("sgd", "momentum", "adam", "yogi", "adagrad")},
)


def make_server_optimizer(name: str, arguments: Mapping[str, object]) -> "ServerOptimizer":
    """Build a server optimizer by name.

    Args:
        name: a key of ``SERVER_OPTIMIZERS``.
        arguments: its parameters, text allowed.

    Returns:
        the optimizer.

    Raises:
        UserError: an unknown name or parameter, or a value that does not fit.
    """
    make = lookup("server optimizer", SERVER_OPTIMIZERS, name)
    return make(**check_arguments(f"server optimizer '{name}'", make, arguments))
