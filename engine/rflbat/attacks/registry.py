"""Registry of attacks: one file and one row each."""

from collections.abc import Callable, Mapping

from rflbat.arguments import check_arguments, lookup
from rflbat.attacks.base import Attack, SampleFormat
from rflbat.attacks.dba import dba
from rflbat.attacks.pixel import pixel
from rflbat.attacks.sentence import sentence
from rflbat.registry import Registry

_OURS: dict[str, Callable[..., Attack]] = {
    "pixel": pixel,
    "sentence": sentence,
    "dba": dba,
}
ATTACKS: Registry[Callable[..., Attack]] = Registry("attack", "rflbat.attacks", Attack, lambda make: make, _OURS)


def make_attack(name: str, samples: SampleFormat, scale: float, arguments: Mapping[str, object]) -> Attack:
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
