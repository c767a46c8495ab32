"""The attacker's view of a round: what its declared knowledge grants.

Axes: N clients of the round, M of them malicious, D parameters.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rflbat.errors import UserError
from rflbat_kernels import Gram, gram, weighted_sum


@dataclass(frozen=True, eq=False)
class Benign:
    """The benign updates of a round, without a copy.

    Args:
        matrix_ND: the updates of all clients; rows of malicious clients hold what they trained and must not be read.
        counted_N: bool, the finite benign rows.
    """

    matrix_ND: Tensor
    counted_N: Tensor

    @cached_property
    def weights_N(self) -> Tensor:
        """Equal float64 weights of the counted rows that sum to 1; all 0 if there is none."""
        return self.counted_N.to(torch.float64) / self.counted_N.sum().clamp_min(1)

    def weighted_sum(self, weights_N: Tensor) -> Tensor:
        """Compute ``sum_i w_i d_i`` without the rows of weight 0.

        Args:
            weights_N: finite, 0 for rows that do not count.

        Returns:
            ``(D,)`` in the dtype of the updates.
        """
        return weighted_sum(weights_N, self.matrix_ND)

    @cached_property
    def mean_D(self) -> Tensor:
        """Mean of the counted rows, 0 without any."""
        return self.weighted_sum(self.weights_N)

    def std_D(self, ddof: int = 0, columns: int = 2**16) -> Tensor:
        """Compute the standard deviation of each column over the counted rows, over blocks of columns.

        Distances from the mean are in the dtype of the updates, where they are exact for close values; their squares
        are summed in float64.

        Args:
            ddof: subtracted from the number of rows, 0 or 1.
            columns: columns of a block.

        Returns:
            ``(D,)`` in the dtype of the updates; 0 where fewer than ``ddof + 1`` rows count.
        """
        blocks = zip(torch.split(self.matrix_ND, columns, 1), torch.split(self.mean_D, columns), strict=True)
        norms = [
            torch.linalg.vector_norm(
                torch.where(self.counted_N[:, None], block_NC, mean_C).sub_(mean_C), dim=0, dtype=torch.float64
            )
            for block_NC, mean_C in blocks
        ]
        free = (self.counted_N.sum() - ddof).clamp_min(1).to(torch.float64)
        return torch.cat(norms).div_(free.sqrt()).to(self.matrix_ND.dtype)

    @cached_property
    def norms_N(self) -> Tensor:
        """Norms of the counted rows, float64; 0 for the others."""
        return self.gram.raw_NN.diagonal().clamp_min(0).sqrt()

    @cached_property
    def gram(self) -> Gram:
        """Gram matrix of the counted rows, as in ``Updates.gram``."""
        return gram(self.matrix_ND, self.counted_N)


@dataclass(frozen=True, eq=False)
class AttackerView:
    """The part of a round that an attacker sees beside its own updates, as far as its declared knowledge goes.

    Args:
        name: the attack, for messages.
        knowledge: as declared, one of ``KNOWLEDGE``.
        clients: number of clients N of the round.
        malicious: number of malicious clients M.
        known: what there is, by name.
    """

    name: str
    knowledge: str
    clients: int
    malicious: int
    known: dict[str, Any] = field(default_factory=dict)

    @property
    def params_D(self) -> Tensor:
        """Global parameters before the round, of the columns of the updates. Knowledge: "model"."""
        found: Tensor = self._granted("params_D", ("model", "omniscient"))
        return found

    @property
    def previous_D(self) -> Tensor:
        """Global parameters one round before that, for an attack with ``history``. Knowledge: "model"."""
        found: Tensor = self._granted("previous_D", ("model", "omniscient"))
        return found

    @property
    def layout(self) -> Any:
        """Names and shapes of the parameters. Knowledge: "model"."""
        return self._granted("layout", ("model", "omniscient"))

    @property
    def benign(self) -> Benign:
        """Benign updates of the round; not before local training. Knowledge: "omniscient"."""
        found: Benign = self._granted("benign", ("omniscient",))
        return found

    def _granted(self, what: str, levels: tuple[str, ...]) -> Any:
        if self.knowledge not in levels:
            raise UserError(
                f"attack '{self.name}' reads {what}, but declares knowledge={self.knowledge!r}; "
                f"it needs {' or '.join(levels)}"
            )
        if self.known.get(what) is None:
            hint = "; `history=True` asks for it" if what == "previous_D" else ""
            raise UserError(f"attack '{self.name}' reads {what}, which is not there at this point of a round{hint}")
        return self.known[what]
