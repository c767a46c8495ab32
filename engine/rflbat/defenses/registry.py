"""Every defense by name: one file and one row each."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rflbat.arguments import check_arguments, lookup
from rflbat.registry import Registry

if TYPE_CHECKING:
    from rflbat.defenses.base import Defense

DEFENSES: "Registry[Callable[..., Defense]]" = Registry(
    "defense",
    "rflbat.defenses",
    "rflbat.defenses.base:Defense",
    {
        "fedavg": "rflbat.defenses.fedavg:fedavg",
        "rflbat": "rflbat.defenses.rflbat:rflbat",
        "foolsgold": "rflbat.defenses.foolsgold:foolsgold",
        "krum": "rflbat.defenses.krum:krum",
        "multikrum": "rflbat.defenses.krum:multikrum",
        "geomed": "rflbat.defenses.geomed:geomed",
        "rfa": "rflbat.defenses.rfa:rfa",
        "median": "rflbat.defenses.median:median",
        "trimmed_mean": "rflbat.defenses.trimmed_mean:trimmed_mean",
        "bulyan": "rflbat.defenses.bulyan:bulyan",
        "norm_clipping": "rflbat.defenses.norm_clipping:norm_clipping",
        "auror": "rflbat.defenses.auror:auror",
        "autoencoder": "rflbat.defenses.autoencoder:autoencoder",
        "fltrust": "rflbat.defenses.fltrust:fltrust",
        "flame": "rflbat.defenses.flame:flame",
        "deepsight": "rflbat.defenses.deepsight:deepsight",
    },
)


def make_defense(name: str, arguments: Mapping[str, object]) -> "Defense":
    """Build a defense by name.

    Args:
        name: a key of ``DEFENSES``.
        arguments: its parameters, text allowed.

    Returns:
        the defense.

    Raises:
        UserError: an unknown name or parameter, or a value that does not fit.
    """
    make = lookup("defense", DEFENSES, name)
    return make(**check_arguments(f"defense '{name}'", make, arguments))
