"""Back end ``analytic``: the gradient that a model writes out for a chunk of clients, without autograd."""

from rflbat.clients.step import Gradient
from rflbat.errors import UserError
from rflbat.models.base import Model


def gradient(model: Model) -> Gradient:
    """Give the model's own gradient.

    Args:
        model: functional model.

    Returns:
        function of a chunk's parameters and batches.

    Raises:
        UserError: the model has none.
    """
    if model.gradient is None:
        needed = "back end 'analytic' needs a gradient that the model writes out"
        raise UserError(f"{needed}; model '{model.name}' has none")
    return model.gradient
