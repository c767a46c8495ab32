"""Scaling of malicious updates (model replacement).

Axes: N clients of the round, D parameters.
"""

import torch
from torch import Tensor

from rflbat.attacks.base import Tamper


def scaling(factor: float) -> Tamper:
    """Multiply every malicious update: ``d_i <- factor * d_i``.

    Args:
        factor: lambda; 1 leaves the updates unchanged. The paper uses 1 and 100.

    Returns:
        the tampering function.

    Example:
        >>> scaling(100.0)(torch.ones(2, 1), torch.tensor([True, False])).tolist()
        [[100.0], [1.0]]

    Source: Bagdasaryan et al. 2020, "How to backdoor federated learning", section 4.2.
    """

    def tamper(updates_ND: Tensor, malicious_N: Tensor) -> Tensor:
        if factor == 1:
            return updates_ND
        return updates_ND.mul_(torch.where(malicious_N, factor, 1.0).to(updates_ND.dtype)[:, None])

    return tamper
