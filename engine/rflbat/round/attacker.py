"""The attacker's part of a round: its labels and samples, its state, and the updates that it sends.

Axes: N clients of the round, D parameters, n samples.
"""

from typing import Any

import torch
from torch import Tensor

from rflbat.attacks.base import Attack, ExtraSamples
from rflbat.attacks.labels import Poison
from rflbat.attacks.tampering import send_updates
from rflbat.attacks.view import AttackerView
from rflbat.data.base import Dataset
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
        UserError: no sample gets another label than its own.
    """
    if attack.labels is None:
        return None
    poison = attack.labels(labels_n, classes, target, generator(seed, f"poison-labels-{part}"))
    if not (poison.eligible_n & (poison.label_n != labels_n)).any():
        why = "the wanted labels are the true ones" if poison.eligible_n.any() else "no sample has the relabelled class"
        raise UserError(
            f"attack '{attack.name}' relabels no sample of the {part} set: {why} "
            f"(target={target}; the labels are 0 to {classes - 1})"
        )
    return poison


def extra_samples(attack: Attack, dataset: Dataset) -> ExtraSamples | None:
    """Read the samples that an attack brings.

    Args:
        attack: the attack.
        dataset: the data set.

    Returns:
        the samples; None if the attack brings none.

    Raises:
        UserError: there are none, or they have another shape than those of the data set; or as the attack raises it.
    """
    if attack.extra is None:
        return None
    extra = attack.extra()
    for part, x in (("training", extra.train_x), ("test", extra.test_x)):
        if not len(x) or tuple(x.shape[1:]) != dataset.shape:
            raise UserError(
                f"attack '{attack.name}' brings {len(x)} {part} samples of shape {tuple(x.shape[1:])}; "
                f"needed: at least one of shape {dataset.shape}"
            )
    return extra


def with_extra(x: Tensor, labels_n: Tensor, extra: ExtraSamples | None, target: int) -> tuple[Tensor, Tensor]:
    """Append the training samples that an attack brings, labelled as the target.

    Args:
        x: training samples as model inputs.
        labels_n: their labels.
        extra: the samples of the attack.
        target: label that the attacker wants.

    Returns:
        all samples and labels, on the device of ``x``; the given ones if there are no others.
    """
    if extra is None:
        return x, labels_n
    own_x = extra.train_x.to(x.device, x.dtype)
    return torch.cat([x, own_x]), torch.cat([labels_n, labels_n.new_full((len(own_x),), target)])


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
