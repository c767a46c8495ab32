"""Inner product manipulation: malicious clients send the negated mean of the benign updates.

Axes: N clients of the round, D parameters.
"""

import math

from torch import Tensor

from rflbat.attacks.base import Attack, SampleFormat, no_trigger
from rflbat.attacks.view import AttackerView
from rflbat.errors import UserError
from rflbat.randomness import Draw


def ipm(samples: SampleFormat, scale: float, *, epsilon: float = 0.5) -> Attack:
    """Send ``-epsilon`` times the mean of the benign updates, the same vector from every malicious client.

    ``d_i <- -scale * epsilon / b * sum of d_j`` over the b finite benign updates of the round. With m malicious clients
    and equal weights, the mean of all updates is ``(b - scale * epsilon * m) / (b + m)`` times the benign mean: it
    points the opposite way if ``scale * epsilon > b / m``. With a small epsilon the update stays close to the benign
    ones, so that a defense which selects by distance takes it.

    Args:
        samples: format of the samples; any, since none is poisoned.
        scale: further factor of the malicious update, 1 for none.
        epsilon: factor of the negated mean, finite and above 0.

    Returns:
        the attack. It is untargeted: malicious clients train on clean data, and their trained updates are discarded.

    Raises:
        UserError: epsilon is out of range.

    Conventions:
        The plain mean, regardless of numbers of samples. A benign update with a NaN or infinity does not count; without
        any finite benign update, malicious clients send zeros. The attack is judged by the accuracy; it has
        no success rate.

    Needs:
        All benign updates of the round, which a real attacker must estimate. One weighted sum.

    Fails:
        Under a mean if ``scale * epsilon < b / m``: it only shortens the step. Under a median if most clients are
        benign and their updates agree in sign. A large epsilon is far from the benign updates. Malicious updates are
        identical, which a defense that looks for copies finds.

    Example:
        >>> import torch
        >>> from rflbat.attacks.tampering import send_updates
        >>> attack = ipm(SampleFormat((1, 28, 28), 1.0), 1.0)
        >>> updates = torch.tensor([[1.0, 2.0], [3.0, 6.0], [0.0, 0.0]])
        >>> send_updates(attack, updates, torch.tensor([2])).tolist()
        [[1.0, 2.0], [3.0, 6.0], [-1.0, -2.0]]

    Source: Xie, Koyejo and Gupta 2019, "Fall of empires: Breaking Byzantine-tolerant SGD by inner product
    manipulation".
    """
    if not 0 < epsilon < math.inf:
        raise UserError(f"attack 'ipm': epsilon={epsilon} is out of range; allowed: finite numbers above 0")

    def tamper(own_MD: Tensor, view: AttackerView, draw: Draw) -> Tensor:
        return view.benign.weighted_sum(-scale * epsilon * view.benign.weights_N).expand_as(own_MD)

    return Attack(
        "ipm",
        (no_trigger,),
        no_trigger,
        0.0,
        tamper,
        needs_all_columns=False,
        knowledge="omniscient",
        success="untargeted",
    )
