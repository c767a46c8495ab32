"""The server's knowledge besides the updates. Only the needs that a defense declares (``Defense.needs``) are computed.

Axes: N clients, D parameters, B inputs, C classes.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rflbat.errors import UserError
from rflbat.parameters import Layout

NEEDS = {
    "params": "the global parameters",
    "history": "the global parameters of the round before",
    "layers": "the names and shapes of the parameters",
    "root_update": "an update of the server's own",
    "outputs": "the outputs of the clients' models",
}
"""Need -> words for it."""
FIELDS = {
    "params_D": "params",
    "previous_D": "history",
    "layout": "layers",
    "root_D": "root_update",
    "forward": "outputs",
    "sample_shape": "outputs",
}
"""Field of ``ServerView`` -> need that provides it."""
Forward = Callable[..., Tensor]
"""``forward(updates (N, D), x (B, *sample), of_clients=True)`` returns the logits ``(N, B, C)`` of the global model
plus each update. Carried columns that the updates lack are the clients' own, or the global ones without ``of_clients``.
"""


@dataclass(frozen=True)
class ServerView:
    """Knowledge of the server in a round; None where no defense of the round needs it.

    Args:
        params_D: global parameters before the round, in the columns of the updates.
        previous_D: the same one round earlier.
        layout: names and shapes of the parameters.
        root_D: the server's own update, local minus global.
        forward: logits of the clients' models.
        sample_shape: shape of one input of ``forward``.
    """

    params_D: Tensor | None = None
    previous_D: Tensor | None = None
    layout: Layout | None = None
    root_D: Tensor | None = None
    forward: Forward | None = None
    sample_shape: tuple[int, ...] | None = None

    def get(self, name: str) -> Any:
        """Return a field that must be there.

        Args:
            name: name of the field.

        Returns:
            its value.

        Raises:
            UserError: it is None.

        Example:
            >>> ServerView().get("root_D")
            Traceback (most recent call last):
                ...
            rflbat.errors.UserError: an update of the server's own: not available in this round; a defense that ...
        """
        value = getattr(self, name)
        if value is None:
            need = FIELDS[name]
            raise UserError(
                f"{NEEDS[need]}: not available in this round; a defense that reads `{name}` must declare "
                f"needs={{{need!r}}}"
            )
        return value


def in_words(needs: Collection[str]) -> str:
    """List needs in words.

    Args:
        needs: keys of ``NEEDS``.

    Returns:
        text.

    Example:
        >>> in_words({"params", "root_update"})
        "the global parameters and an update of the server's own"
    """
    return " and ".join(words for need, words in NEEDS.items() if need in needs)
