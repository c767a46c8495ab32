"""Root data: clean samples at the server, set aside before the training samples are divided among the clients.

A defense that must learn how clean updates look gets a tenth of the samples. The server divides it among ten benign
clients of its own and runs warm-up rounds of FedAvg without an attack. A defense that needs an update of the server's
own in each round (``round.needs``) gets ``root_samples``. Every draw has its own purpose, so no other draw of the run
changes. Axes: N clients of the warm-up rounds, D parameters.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rflbat.clients.batches import draw_batches
from rflbat.clients.executor import same_start
from rflbat.clients.row_sparse import LocalTask
from rflbat.clients.sharded import train_sharded
from rflbat.clients.step import make_batch_source, with_keys
from rflbat.data.augment import by_key
from rflbat.defenses.base import Defense, NoState, Updates
from rflbat.defenses.fedavg import fedavg
from rflbat.errors import UserError
from rflbat.randomness import draw_source, generator
from rflbat.round.carried import next_columns, split_columns
from rflbat.round.draws import draw_keys, local_steps
from rflbat.round.round import apply_update
from rflbat.round.state import Federation
from rflbat_kernels import finite_rows

SHARE = 0.1
"""Share of the training samples that becomes root data."""
CLIENTS, ROUNDS = 10, 20


def draw_root_data(defense: Defense, seed: int, samples: int, root_samples: int = 100) -> np.ndarray:
    """Draw the root data: training samples that no client gets.

    Args:
        defense: defense of the run.
        seed: seed of the run.
        samples: number of training samples.
        root_samples: number of samples for the server's own update.

    Returns:
        positions, ascending int64. For a defense that learns before the first round: a tenth of the samples, rounded to
        the nearest number, which also serves for the server's own update. For any other that needs this update:
        ``root_samples``. None for all others.

    Raises:
        UserError: a tenth is less than one sample for each client of the warm-up rounds, or no sample is left for the
            clients.
    """
    if defense.pretrain is None and "root_update" not in defense.needs:
        return np.empty(0, np.int64)
    if defense.pretrain is None:
        if root_samples >= samples:
            raise UserError(
                f"root_samples={root_samples} leaves the clients no sample; {defense.name} sets them aside from "
                f"{samples} training samples; allowed: 1 to {samples - 1}"
            )
        return np.sort(generator(seed, "root-samples").choice(samples, root_samples, replace=False))
    count = int(SHARE * samples + 0.5)
    if count < CLIENTS:
        raise UserError(
            f"{defense.name} needs at least {CLIENTS} samples of root data, a tenth of the training samples; "
            f"got {samples} training samples"
        )
    return np.sort(generator(seed, "held-out").choice(samples, count, replace=False))


@torch.no_grad()
def clean_updates(federation: Federation, params_D: Tensor) -> Tensor:
    """Run the warm-up rounds: FedAvg among benign clients that share the root data evenly.

    The settings are those of the run. 20 rounds of 10 clients give 200 updates, all of which are stored until the
    defense has learned from them: 800 D bytes, as much as the updates of a round of 200 clients (800 MB for a million
    parameters). Each of several ranks stores its columns of them.

    Args:
        federation: what no round changes; its samples are not modified.
        params_D: initial parameters.

    Returns:
        updates ``(200, D)``, round after round; a row may be non-finite if training diverges.
    """
    experiment, device = federation.experiment, federation.device
    order = generator(experiment.seed, "held-out-clients").permutation(federation.root_indices)
    shares = np.array_split(order, CLIENTS)
    sizes_N = torch.tensor([len(own) for own in shares], dtype=torch.float64, device=device)
    ids_N = torch.arange(CLIENTS, device=device)
    steps = local_steps(experiment, [len(own) for own in shares])
    optimizer = replace(experiment.client_optimizer, steps=max(steps), ragged=min(steps) < max(steps))
    collected = params_D.new_empty(ROUNDS, CLIENTS, federation.ranks.width(federation.defense_columns))
    for number in range(ROUNDS):
        batches = draw_batches(
            shares,
            np.zeros(CLIENTS, bool),
            generator(experiment.seed, "held-out-batches", number),
            steps=steps,
            batch=experiment.batch_size,
            poison_fraction=0.0,
            drop_last=experiment.drop_last,
        ).to(device)
        augment = None
        if federation.augmentations:
            of_samples = draw_keys(experiment.seed, "held-out-augment", number, CLIENTS).to(device)
            augment = by_key(federation.augmentations, of_samples)
        batch_source = make_batch_source(
            federation.train_x, federation.train_y, batches, (), ids_N, experiment.target, augment=augment
        )
        keyed = federation.model.draws
        key_N = draw_keys(experiment.seed, "held-out-dropout", number, CLIENTS).to(device) if keyed else None
        task = LocalTask(federation.model, same_start(params_D), with_keys(batch_source, key_N))
        updates_ND, _ = train_sharded(federation.backend, task, params_D, optimizer, CLIENTS, federation.ranks)
        draw = draw_source(experiment.seed, "held-out-defense", number, device)
        with federation.ranks.sharded_columns(len(params_D)):
            seen_ND, carried_NC = split_columns(federation, updates_ND)
            updates = Updates(seen_ND, sizes_N, ids_N, finite_rows(updates_ND))
            decision = fedavg().apply(updates, NoState(), draw)
        collected[number] = seen_ND
        update_D = federation.ranks.gather(decision.update, federation.defense_columns)
        update_D, carried_C = next_columns(federation, params_D, update_D, decision, carried_NC)
        params_D, _ = apply_update(params_D, update_D, experiment.server_lr, carried_C)
    return collected.flatten(0, 1)


def pretrain_defense(federation: Federation, params_D: Tensor) -> Any:
    """Pretrain the run's defense on clean updates, if it learns from them.

    Args:
        federation: what no round changes.
        params_D: initial parameters.

    Returns:
        the defense's state before round 0, or None if it learns nothing before the first round.
    """
    if federation.defense.pretrain is None:
        return None
    draw = draw_source(federation.experiment.seed, "pretrain", 0, federation.device)
    clean_MD = clean_updates(federation, params_D)
    with federation.ranks.sharded_columns(len(params_D)):
        return federation.defense.pretrain(clean_MD, draw)
