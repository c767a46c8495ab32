"""The updates of a round, as a defense receives them.

Axes: N clients of the round, D parameters, B inputs, C classes.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from rflbat.defenses.server_view import ServerView
from rflbat.parameters import Layout
from rflbat_kernels import (
    Gram,
    RowSparse,
    cosines,
    distances_to_sum,
    gram,
    inner_products,
    row_sparse_gram,
    row_sparse_weighted_sum,
    squared_distances,
    weighted_sum,
)


@dataclass(frozen=True)
class Updates:
    """The updates of a round, as a defense receives them.

    Every quantity that needs a pass over the matrix is computed once, on first access, so that several defenses can
    judge the same updates for the price of one matrix product.

    Args:
        values: updates (local minus global), of any float type, as a dense ``(N, D)`` matrix or row-sparse. Rows that
            are not valid may hold anything.
        sizes_N: number of samples of each client, float64.
        client_ids_N: int64, client of each row; each client has at most one row per round.
        valid_N: bool, as from ``finite_rows``: rows without NaN, Inf or a number beyond 1e100. A defense must drop all
            other rows first.
        malicious_count: true number of malicious clients of the round; used only for ``f="true"``.
        server: what the server knows besides the updates, as far as a defense of the round needs it.
    """

    values: Tensor | RowSparse
    sizes_N: Tensor
    client_ids_N: Tensor
    valid_N: Tensor
    malicious_count: Tensor | None = None
    server: ServerView = field(default_factory=ServerView)

    @cached_property
    def matrix_ND(self) -> Tensor:
        """The updates as a dense ``(N, D)`` matrix, for defenses that work on coordinates."""
        return self.values.dense() if isinstance(self.values, RowSparse) else self.values

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the updates."""
        return (self.values.matrix_NQ if isinstance(self.values, RowSparse) else self.values).dtype

    def weighted_sum(self, weights_N: Tensor) -> Tensor:
        """Compute ``sum_i w_i d_i`` without the rows of weight 0.

        Args:
            weights_N: finite, any float type.

        Returns:
            ``(D,)`` in the dtype of the updates.
        """
        if isinstance(self.values, RowSparse):
            return row_sparse_weighted_sum(weights_N, self.values)
        return weighted_sum(weights_N, self.values)

    @cached_property
    def gram(self) -> Gram:
        """Gram matrix of the valid rows about three origins, float64."""
        if isinstance(self.values, RowSparse):
            return row_sparse_gram(self.values, self.valid_N)
        return gram(self.values, self.valid_N)

    @cached_property
    def norms_N(self) -> Tensor:
        """``||d_i||`` in float64, 0 for rows that are not valid. Takes one pass over the matrix."""
        if isinstance(self.values, RowSparse):
            return self.gram.raw_NN.diagonal().sqrt()
        return distances_to_sum(torch.zeros_like(self.sizes_N), self.values, self.valid_N)

    @cached_property
    def squared_distances_NN(self) -> Tensor:
        """``||d_i - d_j||^2``, accurate for each pair however far away other rows are."""
        return squared_distances(self.gram.anchored_NN)

    @cached_property
    def cosines_NN(self) -> Tensor:
        """``<d_i, d_j> / (||d_i|| ||d_j||)``, 0 if either row is zero."""
        return cosines(self.gram.raw_NN)

    def inner_products(self, vector_D: Tensor) -> Tensor:
        """Compute ``<d_i, v>`` in float64, 0 for rows that are not valid. Takes one pass over the matrix.

        Args:
            vector_D: v, in the columns of the updates.

        Returns:
            ``(N,)`` float64.
        """
        return inner_products(self.matrix_ND, vector_D, self.valid_N)

    @property
    def params_D(self) -> Tensor:
        """Global parameters before the round; needs "params"."""
        vector_D: Tensor = self.server.get("params_D")
        return vector_D

    @property
    def previous_D(self) -> Tensor:
        """Global parameters one round before, in the first round the initial ones; needs "history"."""
        vector_D: Tensor = self.server.get("previous_D")
        return vector_D

    @property
    def layout(self) -> Layout:
        """Names and positions of the parameters; needs "layers"."""
        layout: Layout = self.server.get("layout")
        return layout

    @property
    def root_D(self) -> Tensor:
        """The server's own update of the round, trained on root data; may be non-finite; needs "root_update"."""
        vector_D: Tensor = self.server.get("root_D")
        return vector_D

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one input of ``outputs``; needs "outputs"."""
        shape: tuple[int, ...] = self.server.get("sample_shape")
        return shape

    def outputs(self, x_B: Tensor) -> Tensor:
        """Compute the logits of every client's local model, the global parameters plus its update.

        Args:
            x_B: inputs ``(B, *sample_shape)``, floats.

        Returns:
            ``(N, B, C)``; rows that are not valid may hold anything. Needs "outputs".
        """
        logits: Tensor = self.server.get("forward")(self.matrix_ND, x_B)
        return logits

    def global_outputs(self, x_B: Tensor) -> Tensor:
        """Compute the logits of the global model.

        Args:
            x_B: inputs ``(B, *sample_shape)``, floats.

        Returns:
            ``(B, C)``. Needs "outputs".
        """
        logits: Tensor = self.server.get("forward")(torch.zeros_like(self.matrix_ND[:1]), x_B, of_clients=False)
        return logits[0]
