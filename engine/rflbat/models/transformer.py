"""A transformer encoder that classifies texts.

Axes: B batch, T tokens, H heads, E width, F width of a head.
"""

import torch
from torch import Tensor, nn

from rflbat.errors import UserError
from rflbat.models.base import Model
from rflbat.models.modules import from_module

PADDING = 0
"""Token id of padding."""


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each behind a layer normalisation and beside a residual path.

    It is torch.nn.TransformerEncoderLayer with ``norm_first=True`` and ``activation="relu"``, of which the attention
    weights are not dropped.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout1, self.dropout2 = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x_BTE: Tensor, padding_BT: Tensor) -> Tensor:
        """Encode texts; no position attends to padding, unless all is padding."""
        x_BTE = x_BTE + self.dropout1(self._attend(self.norm1(x_BTE), padding_BT))
        changed_BTE: Tensor = self.dropout2(self.linear2(torch.relu(self.linear1(self.norm2(x_BTE)))))
        return x_BTE + changed_BTE

    def _attend(self, x_BTE: Tensor, padding_BT: Tensor) -> Tensor:
        split = (*x_BTE.shape[:2], 3, self.heads, -1)
        query, key, value = self.in_proj(x_BTE).view(split).permute(2, 0, 3, 1, 4).unbind(0)
        score_BHTT = query @ key.mT / query.shape[-1] ** 0.5
        score_BHTT = score_BHTT.masked_fill(padding_BT[:, None, None], torch.finfo(score_BHTT.dtype).min)
        mixed_BHTF = score_BHTT.softmax(-1) @ value
        mixed: Tensor = self.out_proj(mixed_BHTF.transpose(1, 2).flatten(2))
        return mixed


class TextEncoder(nn.Module):
    """Embedding of tokens and positions, encoder layers, and a linear layer on the mean over the tokens of a text."""

    def __init__(
        self, tokens: int, words: int, classes: int, width: int, heads: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(words, width), nn.Parameter(torch.empty(tokens, width))
        for table in (self.embedding.weight, self.position):
            nn.init.normal_(table, std=width**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify texts ``(B, T)`` of token ids."""
        padding_BT = x == PADDING
        hidden_BTE = self.dropout(self.embedding(x) + self.position)
        for layer in self.layers:
            hidden_BTE = layer(hidden_BTE, padding_BT)
        share_BT = (~padding_BT).to(hidden_BTE.dtype)
        mean_BE = (self.norm(hidden_BTE) * share_BT[..., None]).sum(1) / share_BT.sum(1, keepdim=True).clamp_min(1)
        logits: Tensor = self.head(mean_BE)
        return logits


def check_sizes(name: str, width: int, heads: int, layers: int, dropout: float = 0.0) -> None:
    """Check the sizes of a transformer.

    Args:
        name: the model, for messages.
        width: numbers per token.
        heads: attention heads.
        layers: encoder layers.
        dropout: probability of zero.

    Raises:
        UserError: a value is out of range.
    """
    for key, value in (("width", width), ("heads", heads), ("layers", layers)):
        if value < 1:
            raise UserError(f"model '{name}': {key}={value} is out of range; allowed: at least 1")
    if width % heads:
        raise UserError(f"model '{name}': heads={heads} does not divide width={width}")
    if not 0 <= dropout < 1:
        raise UserError(f"model '{name}': dropout={dropout} is out of range; allowed: 0 to below 1")


def transformer(
    shape: tuple[int, ...],
    classes: int,
    words: int = 0,
    *,
    width: int = 64,
    heads: int = 4,
    layers: int = 2,
    dropout: float = 0.0,
) -> Model:
    """Transformer encoder of two layers for texts, with learned positions and the mean over tokens as output.

    Layers normalise first and have a feed-forward network of four times the width. Linear layers start as in
    torch.nn.Linear, embeddings and positions normal with standard deviation ``1 / sqrt(width)``. Token id 0 is padding:
    no token attends to it and the mean leaves it out.

    Args:
        shape: ``(T,)``, tokens of a text.
        classes: number of classes, at least 2.
        words: size of the vocabulary, at least 1.
        width: numbers per token, a multiple of ``heads``.
        heads: attention heads, at least 1.
        layers: encoder layers, at least 1.
        dropout: of embeddings and of the output of attention and feed-forward network, 0 to below 1; drawn by key.

    Returns:
        the functional model; samples are token ids.

    Raises:
        UserError: the samples are not texts, or a parameter is out of range.

    Example:
        >>> transformer((100,), 5, 1000).layout.size
        170821

    Source: Vaswani et al. 2017, "Attention is all you need"; Xiong et al. 2020 (normalisation first).
    """
    if not words:
        raise UserError(f"model 'transformer' needs texts; got samples of shape {shape} without a vocabulary")
    check_sizes("transformer", width, heads, layers, dropout)
    return from_module(
        lambda: TextEncoder(shape[0], words, classes, width, heads, layers, dropout), name="transformer", untried=False
    )
