"""Back end ``analytic``: the model's own gradient for a chunk of clients, without autograd."""

from rflbat.clients.step import Gradient
from rflbat.errors import UserError
from rflbat.models.base import Model


def gradient(model: Model) -> Gradient:
    """Return the model's analytic gradient.

    Args:
        model: functional model.

    Returns:
        function of a chunk's parameters and batches.

    Raises:
        UserError: the model has no analytic gradient.
    """
    if model.gradient is None:
        needed = "back end 'analytic' needs a model with an analytic gradient"
        raise UserError(f"{needed}; model '{model.name}' has none")
    return model.gradient
