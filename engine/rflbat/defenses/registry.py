"""Registry of defenses: one file and one row each.

``translation`` states whether adding one vector to every update adds it to the result; the test battery checks it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rflbat.arguments import check_arguments, lookup
from rflbat.defenses.auror import auror
from rflbat.defenses.autoencoder import autoencoder
from rflbat.defenses.base import Defense
from rflbat.defenses.bulyan import bulyan
from rflbat.defenses.fedavg import fedavg
from rflbat.defenses.foolsgold import foolsgold
from rflbat.defenses.geomed import geomed
from rflbat.defenses.krum import krum, multikrum
from rflbat.defenses.median import median
from rflbat.defenses.norm_clipping import norm_clipping
from rflbat.defenses.rfa import rfa
from rflbat.defenses.rflbat import rflbat
from rflbat.defenses.trimmed_mean import trimmed_mean
from rflbat.registry import Registry


@dataclass(frozen=True)
class Row:
    """A registered defense.

    Args:
        make: factory; its keyword-only parameters are the user's.
        translation: whether translating all updates by one vector translates the result by the same vector.
    """

    make: Callable[..., Defense]
    translation: bool


def _adopt(make: Callable[..., Defense]) -> Row:
    """Make the row of a third-party defense, which promises no translation equivariance."""
    return Row(make, translation=False)


_OURS = {
    "fedavg": Row(fedavg, translation=True),
    "rflbat": Row(rflbat, translation=False),
    "foolsgold": Row(foolsgold, translation=False),
    "krum": Row(krum, translation=True),
    "multikrum": Row(multikrum, translation=True),
    "geomed": Row(geomed, translation=True),
    "rfa": Row(rfa, translation=True),
    "median": Row(median, translation=True),
    "trimmed_mean": Row(trimmed_mean, translation=True),
    "bulyan": Row(bulyan, translation=True),
    "norm_clipping": Row(norm_clipping, translation=False),
    "auror": Row(auror, translation=True),
    "autoencoder": Row(autoencoder, translation=False),
}
DEFENSES: Registry[Row] = Registry("defense", "rflbat.defenses", Defense, _adopt, _OURS)


def make_defense(name: str, arguments: Mapping[str, object]) -> Defense:
    """Build a defense by name.

    Args:
        name: a key of ``DEFENSES``.
        arguments: its parameters, values may be text.

    Returns:
        the defense.

    Raises:
        UserError: an unknown name or parameter, or an invalid value.
    """
    make = lookup("defense", DEFENSES, name).make
    return make(**check_arguments(f"defense '{name}'", make, arguments))
