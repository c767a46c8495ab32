"""The interface of a transform, its updates, and its composition with a defense.

A transform makes K rows of the N updates, each a linear combination of them: ``y = M u``. All that most defenses need
follows from the Gram matrix of the updates, so the rows are not computed.

Axes: N clients of the round, K rows, D parameters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from rflbat.defenses.base import NONFINITE, Decision, Defense, Updates, state_tensors
from rflbat.errors import UserError
from rflbat.randomness import Draw
from rflbat_kernels import Gram, squared_distances


def same_rows(clients: int) -> int:
    """Return the number of clients: each has a row of its own."""
    return clients


def no_uniforms(clients: int) -> int:
    """Return 0: the transform draws no random numbers."""
    return 0


@dataclass(frozen=True)
class Transform:
    """A function from updates to updates, before a defense.

    Args:
        name: registry name.
        apply: (updates, draw) -> transformed updates.
        rows: number of clients N -> number of rows K.
        num_uniforms: number of clients N -> number of uniforms that ``apply`` draws.
    """

    name: str
    apply: "Callable[[Updates, Draw], Transformed]"
    rows: Callable[[int], int] = same_rows
    num_uniforms: Callable[[int], int] = no_uniforms


@dataclass(frozen=True)
class Transformed(Updates):
    """Rows that are linear combinations of other updates.

    Args:
        base: the updates of which the rows are made.
        mixing_KN: float64, the combinations M; 0 in the columns of rows that are not valid.
        row_N: int64, the row that stands for each client.
        scaled: whether M is a diagonal of factors. Otherwise the rows of M sum to 1, or to 0 for a row that is not
            valid.
    """

    base: Updates = field(kw_only=True)
    mixing_KN: Tensor = field(kw_only=True)
    row_N: Tensor = field(kw_only=True)
    scaled: bool = field(kw_only=True, default=False)

    @cached_property
    def matrix_ND(self) -> Tensor:
        """The rows as a dense matrix, for defenses that work on coordinates."""
        finite_ND = torch.where(self.base.valid_N[:, None], self.base.matrix_ND, 0)
        if self.scaled:
            return finite_ND * self.mixing_KN.diagonal()[:, None].to(finite_ND.dtype)
        return self.mixing_KN.to(finite_ND.dtype) @ finite_ND

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the updates."""
        return self.base.dtype

    def weighted_sum(self, weights_N: Tensor) -> Tensor:
        """Compute ``sum_k w_k y_k`` as one weighted sum of the updates.

        Args:
            weights_N: weights of the K rows.

        Returns:
            ``(D,)`` in the dtype of the updates.
        """
        return self.base.weighted_sum(weights_N.to(torch.float64) @ self.mixing_KN)

    @cached_property
    def squared_distances_NN(self) -> Tensor:
        """Squared distances of the rows; exactly 0 between rows of equal combinations."""
        if not self.scaled:
            found_KK = squared_distances(self._mixed(self.base.gram.anchored_NN))
            equal_KK = (self.mixing_KN[:, None] == self.mixing_KN).all(2)
            return torch.where(equal_KK, 0, found_KK)
        # ||a u - b v||^2 = a b ||u - v||^2 + (a - b) (a ||u||^2 - b ||v||^2), without cancellation for a = b.
        factor_N, square_N = self.mixing_KN.diagonal(), self.base.gram.raw_NN.diagonal()
        product_NN = factor_N[:, None] * factor_N
        own_N = factor_N * square_N
        apart_NN = (factor_N[:, None] - factor_N) * (own_N[:, None] - own_N)
        return (product_NN * self.base.squared_distances_NN + apart_NN).clamp_min(0).fill_diagonal_(0)

    @cached_property
    def gram(self) -> Gram:
        """Gram matrix of the valid rows; about the mean also where a defense asks for the anchors."""
        raw_KK = self._mixed(self.base.gram.raw_NN)
        share_K = self.valid_N.to(torch.float64) / self.valid_N.sum().clamp_min(1)
        valid_KK = self.valid_N[:, None] & self.valid_N
        squared_KK = torch.where(valid_KK, self.squared_distances_NN, 0)
        mean_K = squared_KK @ share_K
        centred_KK = -(squared_KK - mean_K[:, None] - mean_K + share_K @ mean_K) / 2
        centred_KK = torch.where(valid_KK, (centred_KK + centred_KK.mT) / 2, 0)
        return Gram(centred_KK, raw_KK, centred_KK)

    @cached_property
    def norms_N(self) -> Tensor:
        """``||y_k||`` in float64."""
        return self.gram.raw_NN.diagonal().clamp_min(0).sqrt()

    def inner_products(self, vector_D: Tensor) -> Tensor:
        """Compute ``<y_k, v>`` in float64.

        Args:
            vector_D: v.

        Returns:
            ``(K,)``.
        """
        return self.mixing_KN @ self.base.inner_products(vector_D)

    def _mixed(self, gram_NN: Tensor) -> Tensor:
        """Return ``M G M^T``, exactly symmetric."""
        mixed_KK = self.mixing_KN @ gram_NN @ self.mixing_KN.mT
        return (mixed_KK + mixed_KK.mT) / 2


def transformed(
    updates: Updates, mixing_KN: Tensor, valid_K: Tensor, row_N: Tensor, sizes_K: Tensor, *, scaled: bool = False
) -> Transformed:
    """Build transformed updates.

    Args:
        updates: the updates.
        mixing_KN: the combinations M.
        valid_K: bool, rows that a defense may use.
        row_N: the row of each client.
        sizes_K: number of samples that each row stands for.
        scaled: whether M is a diagonal of factors.

    Returns:
        the K rows.
    """
    same = mixing_KN.shape[0] == mixing_KN.shape[1]
    return Transformed(
        values=updates.values,
        sizes_N=sizes_K,
        client_ids_N=updates.client_ids_N if same else torch.arange(len(mixing_KN), device=mixing_KN.device),
        valid_N=valid_K,
        malicious_count=updates.malicious_count,
        server=updates.server,
        base=updates,
        mixing_KN=mixing_KN,
        row_N=row_N,
        scaled=scaled,
    )


def before(transforms: Sequence[Transform], defense: Defense) -> Defense:
    """Compose transforms with a defense: the defense judges the transformed rows.

    The decision is mapped back to the clients. A client's weight is the sum over the rows of the row's weight times
    the client's share of it, and a client is kept if its weight is above 0; its score and stage are those of its row.

    Args:
        transforms: in the order in which they are applied.
        defense: the defense.

    Returns:
        the composed defense; the defense itself without transforms.

    Raises:
        UserError: the defense remembers clients, and a transform merges them.

    Example:
        >>> from rflbat.defenses.registry import make_defense
        >>> from rflbat.transforms.registry import make_transforms
        >>> before(make_transforms("nnm,clip(c=1)"), make_defense("krum", {})).name
        'nnm,clip,krum'
    """
    if not transforms:
        return defense
    _check_memory(transforms, defense)

    def rows(clients: int) -> int:
        for transform in transforms:
            clients = transform.rows(clients)
        return clients

    def apply(updates: Updates, state: object, draw: Draw) -> Decision:
        stages = [updates]
        for transform in transforms:
            stages.append(transform.apply(stages[-1], draw))
        decision = defense.apply(stages[-1], state, draw)
        for stage in reversed(stages[1:]):
            assert isinstance(stage, Transformed)
            decision = _mapped(decision, stage)
        return decision

    def num_uniforms(clients: int, parameters: int) -> int:
        drawn = 0
        for transform in transforms:
            drawn += transform.num_uniforms(clients)
            clients = transform.rows(clients)
        return drawn + defense.num_uniforms(clients, parameters)

    smallest = next((count for count in range(1, 10**6) if rows(count) >= defense.min_clients), defense.min_clients)
    return replace(
        defense,
        name=",".join([*(transform.name for transform in transforms), defense.name]),
        apply=apply,
        num_uniforms=num_uniforms,
        min_clients=smallest,
    )


def _check_memory(transforms: Sequence[Transform], defense: Defense) -> None:
    """Refuse a defense with a state per client behind a transform that merges clients, and forward passes."""
    if "outputs" in defense.needs:
        raise UserError(f"{defense.name} feeds the clients' models; transformed updates have none; leave out before=")
    merging = [transform.name for transform in transforms if transform.rows(4) != 4]
    few, more = (state_tensors(defense.init(count, 5, torch.device("meta"))) for count in (3, 4))
    if merging and any(few[name].shape != more[name].shape for name in few):
        raise UserError(f"{defense.name} remembers every client, but '{merging[0]}' merges clients; leave it out")


def _mapped(decision: Decision, stage: Transformed) -> Decision:
    """Map a decision about rows to the updates of which they are made."""
    valid_N = stage.base.valid_N
    weights_N = decision.weights if stage.scaled else decision.weights @ stage.mixing_KN
    weights_N = torch.where(valid_N, weights_N, 0)
    kept_N = weights_N > 0
    trace = {
        name: value[stage.row_N] if name in ("stage", "coordinates", "cluster") else value
        for name, value in decision.trace.items()
    }
    trace["stage"] = torch.where(valid_N, torch.where(kept_N, 0, trace["stage"]), NONFINITE)
    return replace(decision, kept=kept_N, weights=weights_N, scores=decision.scores[stage.row_N], trace=trace)
