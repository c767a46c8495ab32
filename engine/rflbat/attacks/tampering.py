"""Tampering with the malicious rows of a round's updates.

Axes: N clients of the round, M of them malicious, D parameters.
"""

from typing import Any

import torch
from torch import Tensor

from rflbat.attacks.base import Attack
from rflbat.attacks.view import AttackerView, Benign
from rflbat.randomness import Draw, replayed
from rflbat_kernels import finite_rows


def send_updates(
    attack: Attack, updates_ND: Tensor, malicious_M: Tensor, draw: Draw | None = None, **known: Any
) -> Tensor:
    """Replace the trained updates of the malicious clients by those that they send.

    The attack gets its own rows alone; the benign ones only through a view that its knowledge opens.

    Args:
        attack: the attack.
        updates_ND: trained updates of all clients; written to.
        malicious_M: int64, positions of the malicious clients, ascending; their number is known on the host.
        draw: uniforms of the attack; none by default.
        known: further parts of the view (``params_D``, ``previous_D``, ``layout``).

    Returns:
        the same matrix.
    """
    if attack.tamper is None or not len(malicious_M):
        return updates_ND
    if attack.knowledge == "omniscient":
        benign_N = torch.ones(len(updates_ND), dtype=torch.bool, device=updates_ND.device)
        benign_N.index_fill_(0, malicious_M, False)
        known["benign"] = Benign(updates_ND, finite_rows(updates_ND) & benign_N)
    view = AttackerView(attack.name, attack.knowledge, len(updates_ND), len(malicious_M), known)
    own_MD = updates_ND.index_select(0, malicious_M)
    drawn = draw or replayed(torch.empty(0, dtype=torch.float64, device=updates_ND.device))
    return updates_ND.index_copy_(0, malicious_M, attack.tamper(own_MD, view, drawn))
