"""Registry of attacks: one file and one row each."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rflbat.arguments import check_arguments, lookup
from rflbat.registry import Registry

if TYPE_CHECKING:
    from rflbat.attacks.base import Attack, SampleFormat

ATTACKS: "Registry[Callable[..., Attack]]" = Registry(
    "attack",
    "rflbat.attacks",
    "rflbat.attacks.base:Attack",
    {
        "pixel": "rflbat.attacks.pixel:pixel",
        "sentence": "rflbat.attacks.sentence:sentence",
        "dba": "rflbat.attacks.dba:dba",
        "ipm": "rflbat.attacks.ipm:ipm",
        "alie": "rflbat.attacks.alie:alie",
        "label_flip": "rflbat.attacks.label_flip:label_flip",
        "edge_case": "rflbat.attacks.edge_case:edge_case",
    },
)


def make_attack(name: str, samples: "SampleFormat", scale: float, arguments: Mapping[str, object]) -> "Attack":
    """Build an attack by name.

    Args:
        name: a key of ``ATTACKS``.
        samples: format of the samples.
        scale: factor of the malicious updates.
        arguments: its parameters, values may be text.

    Returns:
        the attack.

    Raises:
        UserError: an unknown name or parameter, or an invalid value.
    """
    make = lookup("attack", ATTACKS, name)
    return make(samples, scale, **check_arguments(f"attack '{name}'", make, arguments))
