"""The state of a simulation: what no round changes, what a round changes, and what happened in one.

Axes: N clients of the round, D parameters.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rflbat.attacks.base import Attack
from rflbat.clients.backend import Backend
from rflbat.defenses.base import Decision, Defense
from rflbat.experiment.config import Experiment
from rflbat.models.base import Model
from rflbat.ranks import SINGLE, Ranks
from rflbat.round.shadows import ShadowOutcome


@dataclass(frozen=True)
class Federation:
    """All that no round changes.

    Args:
        experiment: the resolved configuration.
        train_x: training samples as floats, resident on the device; ``train_y`` their labels.
        test_x: test samples as floats, on the device; ``test_y`` their labels.
        client_indices: per client of the federation, the positions of its training samples.
        model: functional model.
        attack: triggers and tampering.
        defense: pure functions.
        backend: how clients are trained.
        device: where all tensors lie.
        shadows: defenses that look on.
        root_indices: positions of the training samples that no client has, for a defense that learns from them.
        vocabulary: vocabulary of texts, position = token id; None for images.
        host_texts: training texts and their labels on the host, where each round looks up which rows of the embedding
            its clients touch; None where all parameters are trained.
        ranks: this process among those that run the simulation; each has all of the above, but not all updates.
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


@dataclass(frozen=True)
class ServerState:
    """All that a round changes: this, and nothing else, is a checkpoint.

    Args:
        round_number: next round, from 0.
        params_D: global parameters.
        defense_state: the defense's memory; of what it has by column, this rank's.
        shadow_states: the memories of the defenses that look on.
    """

    round_number: int
    params_D: Tensor
    defense_state: Any
    shadow_states: tuple[Any, ...] = ()


@dataclass(frozen=True)
class RoundOutcome:
    """What happened in a round.

    Args:
        round_number: which one.
        clients_N: ids of its clients.
        malicious_N: who of them attacked.
        decision: the defense's decision.
        discarded: 0-dim bool, the server left the model as it was, because the move would have made it non-finite.
        measures: as ``evaluation.evaluate``, or None in a round that was not evaluated.
        shadows: what the defenses that look on would have done.
        chunk: clients that were trained at a time; less than the back end's where memory ran out.
    """

    round_number: int
    clients_N: np.ndarray
    malicious_N: np.ndarray
    decision: Decision
    discarded: Tensor
    measures: Tensor | None
    shadows: tuple[ShadowOutcome, ...] = ()
    chunk: int = 1
