"""Names of the back ends and optimizers of local training, and every learning rate schedule by name."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from rflbat.registry import Registry

if TYPE_CHECKING:
    from rflbat.clients.schedules import LrSchedule

BACKENDS = ("auto", "vmap", "loop", "analytic")
OPTIMIZERS = ("sgd", "adam")

LR_SCHEDULES: "Registry[Callable[..., LrSchedule]]" = Registry(
    "lr schedule",
    "rflbat.lr_schedules",
    "rflbat.clients.schedules:LrSchedule",
    {name: f"rflbat.clients.schedules:{name}" for name in ("constant", "step", "cosine", "exp")},
)
