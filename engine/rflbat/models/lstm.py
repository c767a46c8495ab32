"""The paper's recurrent network for Amazon reviews.

Axes: B batch, T tokens of a text, U units, C classes.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from rflbat.errors import UserError
from rflbat.models.base import Model, uniform_start
from rflbat.models.recurrence import last_state
from rflbat.parameters import Layout

EMBEDDING, UNITS, HIDDEN = 100, 100, 64


def lstm(shape: tuple[int, ...], classes: int, words: int = 0) -> Model:
    """Embedding of 100, LSTM layer of 100 units, linear layer of 64: 5,766,089 parameters for the paper's 56,785 words.

    The classifier reads the state after the last token, so texts are padded in front. Gates are in the order i, f, g, o
    with two bias vectors, as in torch.nn.LSTM. Embeddings are initialised standard normal, all other parameters
    uniformly in ``[-1/sqrt(fan in), 1/sqrt(fan in)]`` (LSTM: fan in = units).

    Args:
        shape: ``(T,)``, tokens of a text.
        classes: number of classes C, at least 2.
        words: size of the vocabulary, at least 1.

    Returns:
        the functional model; samples are token ids.

    Raises:
        UserError: the samples are not texts.

    Example:
        >>> lstm((100,), 5, 56785).layout.size
        5766089

    Source: Wang et al. 2022 (RFLBAT), table 1; Hochreiter and Schmidhuber 1997.
    """
    if not words:
        raise UserError(f"model 'lstm' needs texts; got samples of shape {shape} without a vocabulary")
    layout = Layout(
        {
            "embedding.weight": (words, EMBEDDING),
            "lstm.weight_ih": (4 * UNITS, EMBEDDING),
            "lstm.weight_hh": (4 * UNITS, UNITS),
            "lstm.bias_ih": (4 * UNITS,),
            "lstm.bias_hh": (4 * UNITS,),
            "hidden.weight": (HIDDEN, UNITS),
            "hidden.bias": (HIDDEN,),
            "linear.weight": (classes, HIDDEN),
            "linear.bias": (classes,),
        }
    )
    fans = {"embedding": 1, "lstm": UNITS, "hidden": UNITS, "linear": HIDDEN}
    bounds = {name: 1 / math.sqrt(fans[name.partition(".")[0]]) for name in layout.shapes}

    def init(stream: np.random.Generator) -> Tensor:
        start_D = uniform_start(layout, bounds, stream)
        table = layout.views(start_D)["embedding.weight"]
        table.copy_(torch.from_numpy(stream.standard_normal(table.shape).astype(np.float32)))
        return start_D

    def apply(parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        vectors_TBE = embedding(x.mT, parameters["embedding.weight"])
        recurrent = (parameters[f"lstm.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        state_BU = last_state(vectors_TBE, *recurrent)
        hidden = torch.relu(linear(state_BU, parameters["hidden.weight"], parameters["hidden.bias"]))
        return linear(hidden, parameters["linear.weight"], parameters["linear.bias"])

    def with_rows(rows: int) -> Model:
        return lstm(shape, classes, rows)

    return Model("lstm", layout, init, apply, cpu_backend="loop", embedding="embedding.weight", with_rows=with_rows)
