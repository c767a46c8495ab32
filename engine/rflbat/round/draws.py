"""Random draws of a round, made on the host: clients, roles, batches and the defense's uniforms.

Axes: N clients of the round, S local steps, B batch, U uniforms.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rflbat.clients.batches import Batches, draw_batches, steps_of_epochs
from rflbat.experiment.config import Experiment
from rflbat.randomness import generator
from rflbat.transfer import transfer
from rflbat_kernels import TouchedRows


@dataclass(frozen=True)
class Group:
    """Clients of a round that train by one program.

    Args:
        malicious: whether they train as the malicious clients do.
        steps: largest number of local steps of one of them.
        ragged: whether some of them take fewer steps.
        rows_G: int64, ascending positions among the round's clients; None: all clients.
    """

    malicious: bool
    steps: int
    ragged: bool
    rows_G: Tensor | None = None


@dataclass(frozen=True)
class RoundDraws:
    """All random draws of a round, and the data sizes of its clients.

    Args:
        round_number: round, from 0.
        clients: ids of the round's clients, ascending; always on the host.
        malicious: which of them are malicious; always on the host.
        client_ids_N: int64, the same ids as a tensor on the device of the round.
        malicious_N: bool, the same roles as a tensor on the device of the round.
        sizes_N: float64, number of samples of each client.
        batches: which samples each client trains on, and which of them are poisoned.
        uniforms_U: float64 in [0, 1), for the defense and the shadows.
        groups: clients that train by one program each; a single group unless malicious clients train differently.
        touched: rows of the model's embedding that the clients touch; None if the clients train all parameters. It
            follows from the other draws, and its shape changes from round to round.
        malicious_M: int64, positions of the malicious clients among the round's, ascending, on the device of the round.
        attack_uniforms_U: float64 in [0, 1), for the attack.
        key_N: int64, key from which each client's model draws in training; None for a model that does not draw.
        augment_key_N: int64, key from which each client's samples are augmented; None without augmentation.
    """

    round_number: int
    clients: np.ndarray
    malicious: np.ndarray
    client_ids_N: Tensor
    malicious_N: Tensor
    sizes_N: Tensor
    batches: Batches
    uniforms_U: Tensor
    groups: tuple[Group, ...] = ()
    touched: TouchedRows | None = None
    key_N: Tensor | None = None
    augment_key_N: Tensor | None = None
    malicious_M: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    attack_uniforms_U: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))

    def to(self, device: torch.device | str) -> "RoundDraws":
        """Copy the draws to a device in a single transfer.

        Args:
            device: device of the round.

        Returns:
            the same draws on the device.
        """
        own = {"ids": self.client_ids_N, "roles": self.malicious_N, "sizes": self.sizes_N, "uniforms": self.uniforms_U}
        rows = {} if self.touched is None else self.touched.tensors()
        of_groups = {f"group{at}": each.rows_G for at, each in enumerate(self.groups) if each.rows_G is not None}
        own |= {"attackers": self.malicious_M, "attack uniforms": self.attack_uniforms_U}
        own |= {} if self.key_N is None else {"keys": self.key_N}
        own |= {} if self.augment_key_N is None else {"augment keys": self.augment_key_N}
        placed = transfer({**own, **vars(self.batches), **rows, **of_groups}, device)
        return replace(
            self,
            client_ids_N=placed["ids"],
            malicious_N=placed["roles"],
            sizes_N=placed["sizes"],
            uniforms_U=placed["uniforms"],
            batches=Batches(**{name: placed[name] for name in vars(self.batches)}),
            groups=tuple(replace(each, rows_G=placed.get(f"group{at}")) for at, each in enumerate(self.groups)),
            touched=None if self.touched is None else self.touched.with_tensors(placed),
            key_N=placed.get("keys"),
            augment_key_N=placed.get("augment keys"),
            malicious_M=placed["attackers"],
            attack_uniforms_U=placed["attack uniforms"],
        )


def draw_keys(seed: int, purpose: str, round_number: int, clients: int) -> Tensor:
    """Draw the keys of a round's clients, from which more is drawn on the device by ``randomness.hashed``.

    Args:
        seed: seed of the run.
        purpose: name of the stream.
        round_number: round, from 0.
        clients: number of clients N; the first keys do not depend on it.

    Returns:
        int64 ``(N,)``, on the host.
    """
    return torch.from_numpy(generator(seed, purpose, round_number).integers(2**63, size=clients))


def draw_clients(experiment: Experiment, round_number: int) -> np.ndarray:
    """Draw the clients of a round.

    Args:
        experiment: configuration.
        round_number: round, from 0.

    Returns:
        ids ``(N,)``, ascending.
    """
    all_clients = np.arange(experiment.clients)
    if experiment.participants in (None, experiment.clients):
        return all_clients
    stream = generator(experiment.seed, "participants", round_number)
    return np.sort(stream.choice(all_clients, experiment.participants, replace=False))


def draw_roles(experiment: Experiment, round_number: int, clients_N: np.ndarray) -> np.ndarray:
    """Draw which of the round's clients are malicious.

    ``redrawn``: the malicious share of the round's clients, rounded to the nearest number and drawn anew each round.
    ``fixed``: that share of all clients, drawn once. Clients are malicious only in rounds of the attack window: every
    ``attack_every``-th round from ``attack_start`` on, until ``attack_stop``.

    Args:
        experiment: configuration.
        round_number: round, from 0.
        clients_N: ids of the round's clients.

    Returns:
        bool ``(N,)``.
    """
    since = round_number - experiment.attack_start
    over = experiment.attack_stop is not None and round_number >= experiment.attack_stop
    if since < 0 or over or since % experiment.attack_every:
        return np.zeros(len(clients_N), bool)
    fixed = experiment.roles == "fixed"
    pool = np.arange(experiment.clients) if fixed else clients_N
    count = int(experiment.malicious * len(pool) + 0.5)
    stream = generator(experiment.seed, "roles", 0 if fixed else round_number)
    return np.isin(clients_N, stream.choice(pool, count, replace=False))


def local_steps(experiment: Experiment, sizes: Sequence[int], malicious: bool = False) -> list[int]:
    """Count the local steps of clients.

    Args:
        experiment: configuration.
        sizes: number of samples of each client.
        malicious: whether they train as the malicious clients do.

    Returns:
        steps of each client, at least 1.
    """
    steps, epochs = experiment.local_steps, experiment.local_epochs
    if malicious and (experiment.attack_steps or experiment.attack_epochs):
        steps, epochs = experiment.attack_steps or steps, experiment.attack_epochs
    if epochs is None:
        return [steps] * len(sizes)
    return [steps_of_epochs(size, epochs, experiment.batch_size, experiment.drop_last) for size in sizes]


def most_steps(experiment: Experiment, sizes: Sequence[int]) -> int:
    """Return the largest number of local steps that a client may take in a round.

    Args:
        experiment: configuration.
        sizes: number of samples of each client of the federation.

    Returns:
        number of steps S, at least 1.
    """
    return max(max(local_steps(experiment, sizes, malicious)) for malicious in (False, True))


def _draw_all_batches(
    experiment: Experiment,
    round_number: int,
    samples: Sequence[np.ndarray],
    malicious_N: np.ndarray,
    poison_fraction: float,
) -> Batches:
    """Draw the batches of all clients; malicious clients with steps of their own draw theirs from another stream.

    Batches of the other clients are thus the same, whatever the malicious clients do.
    """
    settings: dict[str, Any] = {
        "batch": experiment.batch_size,
        "poison_fraction": poison_fraction,
        "drop_last": experiment.drop_last,
    }

    def drawn(purpose: str, who: Sequence[int], malicious: bool) -> Batches:
        own = [samples[client] for client in who]
        steps = local_steps(experiment, [len(each) for each in own], malicious)
        stream = generator(experiment.seed, purpose, round_number)
        return draw_batches(own, malicious_N[who], stream, steps=steps, **settings)

    batches = drawn("batches", range(len(samples)), False)
    attackers = np.flatnonzero(malicious_N)
    if not len(attackers) or experiment.attack_steps is None is experiment.attack_epochs:
        return batches
    return batches.replaced(attackers, drawn("attack-batches", attackers.tolist(), True))


def _groups(experiment: Experiment, sizes: Sequence[int], malicious_N: np.ndarray) -> tuple[Group, ...]:
    """Divide the clients of a round into groups that train by one program each."""
    apart = experiment.attack_optimizer is not None
    found = []
    for malicious in (False, True):
        rows = np.flatnonzero(malicious_N == malicious) if apart else np.arange(len(malicious_N))
        if len(rows) and (apart or not malicious):
            steps = local_steps(experiment, [sizes[row] for row in rows.tolist()], malicious)
            own = None if len(rows) == len(malicious_N) else torch.from_numpy(rows)
            found.append(Group(malicious, max(steps), min(steps) < max(steps), own))
    return tuple(found)


def draw_round(
    experiment: Experiment,
    round_number: int,
    samples: Sequence[np.ndarray],
    poison_fraction: float,
    uniforms: int,
    keyed: bool = False,
    extra: range = range(0),
    attack_uniforms: Callable[[int], int] = lambda malicious: 0,
) -> RoundDraws:
    """Make all draws of a round, each kind from its own random stream of (seed, purpose, round).

    Args:
        experiment: configuration.
        round_number: round, from 0.
        samples: positions of the training samples of each client of the federation.
        poison_fraction: share of poisoned samples in a malicious client's batch, 0 to 1.
        uniforms: number of uniforms U, the largest that any of the round's defenses needs.
        keyed: whether the model draws in training.
        extra: positions of the samples that replace poisoned ones; empty: these are stamped.
        attack_uniforms: number of malicious clients -> number of uniforms that the attack draws.

    Returns:
        the draws, on the host.
    """
    clients = draw_clients(experiment, round_number)
    malicious = draw_roles(experiment, round_number, clients)
    own = [samples[client] for client in clients]
    sizes = [len(each) for each in own]
    batches = _draw_all_batches(experiment, round_number, own, malicious, poison_fraction)
    if extra:
        batches = batches.with_extra(extra, generator(experiment.seed, "extra-samples", round_number))
    attackers = np.flatnonzero(malicious)
    of_attack = generator(experiment.seed, "attack", round_number).random(attack_uniforms(len(attackers)))
    return RoundDraws(
        round_number=round_number,
        clients=clients,
        malicious=malicious,
        client_ids_N=torch.from_numpy(clients),
        malicious_N=torch.from_numpy(malicious),
        sizes_N=torch.tensor(sizes, dtype=torch.float64),
        batches=batches,
        uniforms_U=torch.from_numpy(generator(experiment.seed, "defense", round_number).random(uniforms)),
        groups=_groups(experiment, sizes, malicious),
        key_N=draw_keys(experiment.seed, "dropout", round_number, len(clients)) if keyed else None,
        augment_key_N=(
            None if experiment.augment is None else draw_keys(experiment.seed, "augment", round_number, len(clients))
        ),
        malicious_M=torch.from_numpy(attackers),
        attack_uniforms_U=torch.from_numpy(of_attack),
    )
