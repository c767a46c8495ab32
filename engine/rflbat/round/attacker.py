"""The attacker's part of a round: its labels, its state, and the updates that it sends.

Axes: N clients of the round, D parameters, n samples.
"""

from typing import Any

from torch import Tensor

from rflbat.attacks.base import Attack
from rflbat.attacks.labels import Poison
from rflbat.attacks.tampering import send_updates
from rflbat.attacks.view import AttackerView
from rflbat.errors import UserError
from rflbat.randomness import Draw, generator
from rflbat.round.draws import RoundDraws
from rflbat.round.state import Federation, ServerState


def make_poison(attack: Attack, labels_n: Tensor, classes: int, target: int, seed: int, part: str) -> Poison | None:
    """Make the table of poisoned labels of a part of the data set.

    Args:
        attack: the attack.
        labels_n: true labels.
        classes: number of labels.
        target: label that the attacker wants.
        seed: seed of the run.
        part: "train" or "test"; each has its own draws.

    Returns:
        the table; None if every poisoned sample gets the target.

    Raises:
        UserError: no test sample counts for the attack's success.
    """
    if attack.labels is None:
        return None
    poison = attack.labels(labels_n, classes, target, generator(seed, f"poison-labels-{part}"))
    if not (poison.eligible_n & (poison.label_n != labels_n)).any():
        raise UserError(
            f"attack '{attack.name}' relabels no sample of the {part} set; the wanted labels are the true ones"
        )
    return poison


def _known(federation: Federation, server: ServerState) -> dict[str, Any]:
    """List what an attacker may know before local training; the view refuses what it does not grant."""
    if federation.attack.knowledge == "own":
        return {}
    own = federation.ranks.columns(federation.defense_columns)
    known: dict[str, Any] = {"params_D": server.params_D[own], "layout": federation.model.layout}
    if server.previous_D is not None and federation.attack.history:
        known["previous_D"] = server.previous_D[own]
    return known


def begin(federation: Federation, server: ServerState, draws: RoundDraws, draw: Draw) -> Any:
    """Let the attack prepare the round, before local training.

    Args:
        federation: what no round changes.
        server: the server before the round.
        draws: the draws of the round.
        draw: uniforms of the attack.

    Returns:
        the attack's state for this round and the next; unchanged in a round without malicious clients.
    """
    attack, malicious = federation.attack, len(draws.malicious_M)
    if attack.begin is None or not malicious:
        return server.attack_state
    known = _known(federation, server)
    view = AttackerView(attack.name, attack.knowledge, len(draws.clients), malicious, known)
    return attack.begin(view, server.attack_state, draw)


def send(federation: Federation, server: ServerState, draws: RoundDraws, updates_NQ: Tensor, draw: Draw) -> Tensor:
    """Replace the malicious updates by those that the attack sends.

    Args:
        federation: what no round changes.
        server: the server before the round.
        draws: the draws of the round.
        updates_NQ: trained updates, this rank's columns; written to.
        draw: uniforms of the attack, after those of ``begin``.

    Returns:
        the updates that the server receives.
    """
    return send_updates(federation.attack, updates_NQ, draws.malicious_M, draw, **_known(federation, server))
