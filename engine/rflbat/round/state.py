"""State of a simulation: what stays fixed, what a round changes, and the outcome of a round.

Axes: N clients of the round, D parameters, trained and carried.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rflbat.attacks.base import Attack
from rflbat.attacks.labels import Poison
from rflbat.clients.backend import Backend
from rflbat.data.augment import Augmentation
from rflbat.defenses.base import Decision, Defense
from rflbat.experiment.config import Experiment
from rflbat.models.base import Model
from rflbat.ranks import SINGLE, Ranks
from rflbat.round.evaluation import Measured
from rflbat.round.shadows import ShadowOutcome
from rflbat.server.optimizers import ServerOptimizer
from rflbat.server.registry import make_server_optimizer


@dataclass(frozen=True)
class Federation:
    """Everything that no round changes.

    Args:
        experiment: the resolved configuration.
        train_x: training samples as float model inputs, on the device; ``train_y`` their labels.
        test_x: test samples as float model inputs, on the device; ``test_y`` their labels.
        client_indices: positions of the training samples of each client of the federation.
        model: functional model.
        attack: triggers and tampering with updates.
        defense: pure functions of the defense.
        backend: how clients are trained.
        device: device of all tensors.
        shadows: shadow defenses.
        root_indices: positions of the root data, training samples that no client has, for a defense that learns from
            them or needs an update of the server's own.
        vocabulary: vocabulary of texts, position = token id; None for images.
        host_texts: training texts and their labels on the host, where each round looks up the rows of the embedding
            that its clients touch; None if clients train all parameters.
        ranks: this process among those that run the simulation; each holds all of the above, but only its columns of
            the updates.
        poison: labels of poisoned training samples, on the device; None: the target, for all.
        host_poison: the same beside ``host_texts``.
        test_poison: the same of the test samples.
        extra_x: test samples that the attack brings, on the device.
        extra_samples: number of training samples that the attack brings, the last of ``train_x``.
        augmentations: changes of the training images, in the order in which they are applied.
    """

    experiment: Experiment
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    client_indices: list[np.ndarray]
    model: Model
    attack: Attack
    defense: Defense
    backend: Backend
    device: torch.device
    shadows: tuple[Defense, ...] = ()
    root_indices: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    vocabulary: tuple[str, ...] | None = None
    host_texts: tuple[Tensor, Tensor] | None = None
    ranks: Ranks = SINGLE
    poison: Poison | None = None
    host_poison: Poison | None = None
    test_poison: Poison | None = None
    extra_x: Tensor | None = None
    extra_samples: int = 0
    augmentations: tuple[Augmentation, ...] = ()

    @property
    def needs(self) -> frozenset[str]:
        """Needs of the defense and of all shadows, as in ``Defense.needs``, and of the attack."""
        of_attack = frozenset({"history"} if self.attack.history else ())
        return of_attack.union(*(each.needs for each in (self.defense, *self.shadows)))

    @property
    def server_columns(self) -> int:
        """Number of columns that the server's optimizer moves; averaged running statistics are not among them."""
        average = self.experiment.batch_norm == "average" and self.experiment.defense_vector == "all"
        return self.model.layout.size if average else self.model.layout.trained

    @property
    def server_optimizer(self) -> ServerOptimizer:
        """Optimizer of the server."""
        return make_server_optimizer(self.experiment.server_optimizer, self.experiment.server_optimizer_args)

    @property
    def extra_positions(self) -> range:
        """Positions of the attack's own training samples, the last of ``train_x``; empty without any."""
        return range(len(self.train_x) - self.extra_samples, len(self.train_x))

    @property
    def measured(self) -> Measured:
        """How the global model is measured."""
        success = self.attack.success
        return Measured(self.test_x, self.test_y, self.experiment.target, success, self.test_poison, self.extra_x)

    @property
    def defense_columns(self) -> int:
        """Number of columns of an update that attack and defense see; fewer than D if the model carries some."""
        layout = self.model.layout
        return layout.size if self.experiment.defense_vector == "all" else layout.trained


@dataclass(frozen=True)
class ServerState:
    """Everything that a round changes; a checkpoint stores exactly this.

    Args:
        round_number: next round, from 0.
        params_D: global parameters.
        defense_state: state of the defense; this rank's columns of the parts that have one column per parameter.
        shadow_states: states of the shadow defenses.
        previous_D: global parameters one round before, in the first round the initial ones; None unless needed.
        attack_state: state of the attack; None if it has none.
        optimizer_state: state of the server's optimizer; None if it has none.
    """

    round_number: int
    params_D: Tensor
    defense_state: Any
    shadow_states: tuple[Any, ...] = ()
    previous_D: Tensor | None = None
    attack_state: Any = None
    optimizer_state: Any = None


@dataclass(frozen=True)
class RoundOutcome:
    """Outcome of a round.

    Args:
        round_number: round, from 0.
        clients_N: ids of its clients.
        malicious_N: which of them were malicious.
        decision: the defense's decision.
        discarded: 0-dim bool; True if the update was discarded because it would have made the global model non-finite.
        measures: as ``evaluation.evaluate``, or None in a round that was not evaluated.
        shadows: outcomes of the shadow defenses.
        chunk: number of clients that were trained at a time; less than the back end's if memory ran out.
    """

    round_number: int
    clients_N: np.ndarray
    malicious_N: np.ndarray
    decision: Decision
    discarded: Tensor
    measures: Tensor | None
    shadows: tuple[ShadowOutcome, ...] = ()
    chunk: int = 1
