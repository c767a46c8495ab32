"""Build a run from a configuration: data on the device, clients, model, attack, defense and back end."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rflbat.attacks.base import Attack, SampleFormat
from rflbat.attacks.registry import ATTACKS, make_attack
from rflbat.clients.backend import Backend, choose_backend
from rflbat.clients.row_sparse import at_most_with_rows, row_sparse
from rflbat.data.base import Dataset, as_inputs
from rflbat.data.partition import partition
from rflbat.data.registry import default_attack, load, make_augmentations
from rflbat.defenses.base import Defense, check_clients
from rflbat.defenses.registry import DEFENSES, make_defense
from rflbat.errors import UserError
from rflbat.experiment.config import Experiment
from rflbat.models.base import Model
from rflbat.models.registry import make_model
from rflbat.randomness import generator
from rflbat.ranks import Ranks, get_ranks, take_device
from rflbat.round.attacker import extra_samples, make_poison, with_extra
from rflbat.round.draws import most_steps
from rflbat.round.needs import check_needs
from rflbat.round.root_data import draw_root_data, pretrain_defense
from rflbat.round.start import read_start
from rflbat.round.state import Federation, ServerState
from rflbat.transforms.base import before
from rflbat.transforms.registry import make_transforms
from rflbat_kernels import dispatch

DATA_DIR = "RFLBAT_DATA_DIR"

# The cells of a sweep share one data set, so its tensors must not be modified.
_load_once = lru_cache(maxsize=1)(load)


def resolve(experiment: Experiment) -> Experiment:
    """Fill in the defaults that depend on the machine: device, data folder and participants.

    Args:
        experiment: as the user wrote it.

    Returns:
        the configuration that is printed and stored.

    Raises:
        UserError: CUDA is requested but not available, or a kernel cannot run on the device or lacks a package.
    """
    device = experiment.device
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device='cuda', but torch finds no CUDA device; allowed: auto, cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    for op, name in experiment.kernels.items():
        try:
            dispatch.choose(op, name, device)
        except (ValueError, ImportError) as error:
            raise UserError(f"kernels: {error}") from None
    data_dir = experiment.data_dir or os.environ.get(DATA_DIR) or None
    return replace(
        experiment,
        device=device,
        data_dir=str(Path(data_dir).resolve()) if data_dir else None,
        start=str(Path(experiment.start).expanduser().resolve()) if experiment.start else None,
        participants=experiment.participants or experiment.clients,
    )


def divide(experiment: Experiment, dataset: Dataset, held_out: Sequence[int] | np.ndarray = ()) -> list[np.ndarray]:
    """Divide the training samples among the clients, with the random stream of (seed, "partition").

    Args:
        experiment: configuration.
        dataset: the data.
        held_out: positions of the root data, samples that no client gets.

    Returns:
        positions in the whole training set, per client.

    Raises:
        UserError: the partition does not fit the data.
    """
    writers = None if dataset.train_writers is None else dataset.train_writers.cpu().numpy()
    labels = dataset.train_y.cpu().numpy()
    left = np.delete(np.arange(len(labels)), held_out)
    parts = partition(
        experiment.partition,
        labels[left],
        experiment.clients,
        experiment.alpha,
        generator(experiment.seed, "partition"),
        None if writers is None else writers[left],
    )
    return [left[part] for part in parts]


def make_shadows(experiment: Experiment) -> tuple[Defense, ...]:
    """Make the shadow defenses, each named by the text that requests it.

    Args:
        experiment: configuration.

    Returns:
        the defenses.

    Raises:
        UserError: a round has too few clients for one of them.
    """
    clients, made = experiment.participants or experiment.clients, []
    for label, name, arguments in experiment.shadows:
        shadow = make_defense(name, arguments)
        check_clients(shadow, arguments, clients)
        made.append(replace(shadow, name=label))
    return tuple(made)


def prepare(experiment: Experiment) -> tuple[Experiment, Dataset, Attack, Defense]:
    """Resolve a configuration, load its data, and check everything that depends on the data except the partition.

    Args:
        experiment: as the user wrote it.

    Returns:
        the resolved configuration, its data, attack and defense.

    Raises:
        UserError: files are missing or damaged, or settings do not fit the data.
    """
    experiment = resolve(experiment)
    dataset = _load_data(experiment)
    make_augmentations(experiment.augment, dataset)
    if experiment.target >= dataset.classes:
        raise UserError(
            f"target={experiment.target} is not a label of {dataset.name}; allowed: 0 to {dataset.classes - 1}"
        )
    attack_name = experiment.attack or default_attack(experiment.dataset)
    experiment = replace(experiment, model=experiment.model or dataset.model, attack=attack_name)
    folder = Path(experiment.data_dir) if experiment.data_dir else None
    format_ = SampleFormat(dataset.shape, dataset.high, dataset.encode, experiment.device, dataset.low, folder)
    attack = make_attack(attack_name, format_, experiment.scale, experiment.attack_args)
    defense = make_defense(experiment.defense, experiment.defense_args)
    defense = before(make_transforms(experiment.before), defense)
    check_clients(defense, experiment.defense_args, experiment.participants or experiment.clients)
    check_needs((defense, *make_shadows(experiment)), dataset.words is not None)
    return experiment, dataset, attack, defense


def _load_data(experiment: Experiment) -> Dataset:
    folder = Path(experiment.data_dir) if experiment.data_dir else None
    return _load_once(experiment.dataset, folder, tuple(sorted(experiment.load_args.items())))


def check_data(experiment: Experiment) -> None:
    """Check everything that depends on the data, including the partition, without building a federation.

    Args:
        experiment: as the user wrote it.

    Raises:
        UserError: as ``build``.
    """
    resolved, dataset, attack, defense = prepare(experiment)
    extra_samples(attack, dataset)
    divide(resolved, dataset, draw_root_data(defense, resolved.seed, len(dataset.train_y), resolved.root_samples))


def build(experiment: Experiment) -> Federation:
    """Build the federation: load and divide the data, move it to the device, make model, attack, defense and back end.

    Args:
        experiment: configuration; it is resolved here, so ``federation.experiment`` is what actually runs.

    Returns:
        what no round changes.

    Raises:
        UserError: files are missing or damaged, or settings do not fit the data.
    """
    experiment, dataset, attack, defense = prepare(experiment)
    root_indices = draw_root_data(defense, experiment.seed, len(dataset.train_y), experiment.root_samples)
    client_indices = divide(experiment, dataset, root_indices)
    ranks = get_ranks()
    device = _choose_device(experiment, ranks)
    model = _make_model(experiment, dataset)
    extra = extra_samples(attack, dataset)
    train_x, train_y = with_extra(as_inputs(dataset.train_x, dataset), dataset.train_y, extra, experiment.target)
    shadows = make_shadows(experiment)
    needs = frozenset[str]().union(*(each.needs for each in (defense, *shadows)))
    sparse, _ = row_sparse(model, experiment.optimizers, attack, ranks.count, needs)
    backend = _choose_backend(experiment, model, train_x[0], sparse, ranks, [len(own) for own in client_indices])
    poison, test_poison = (
        make_poison(attack, labels, dataset.classes, experiment.target, experiment.seed, part)
        for labels, part in ((dataset.train_y, "train"), (dataset.test_y, "test"))
    )
    federation = Federation(
        experiment=experiment,
        train_x=train_x.to(device),
        train_y=train_y.to(device),
        test_x=as_inputs(dataset.test_x, dataset).to(device),
        test_y=dataset.test_y.to(device),
        client_indices=client_indices,
        model=model.to(device),
        attack=attack,
        defense=defense,
        backend=backend,
        device=device,
        shadows=shadows,
        root_indices=root_indices,
        vocabulary=dataset.words,
        host_texts=(train_x, train_y) if sparse else None,
        ranks=ranks,
        poison=None if poison is None else poison.to(device),
        host_poison=poison,
        test_poison=None if test_poison is None else test_poison.to(device),
        extra_x=None if extra is None else extra.test_x.to(device),
        extra_samples=0 if extra is None else len(extra.train_x),
        augmentations=make_augmentations(experiment.augment, dataset),
    )
    _check_ranks(federation)
    return federation


def _choose_device(experiment: Experiment, ranks: Ranks) -> torch.device:
    """Return the device of the run; each of several ranks on GPUs takes the one of its LOCAL_RANK."""
    device = torch.device(experiment.device)
    if device.type == "cuda" and not ranks.is_single:
        take_device()
    return device


def _make_model(experiment: Experiment, dataset: Dataset) -> Model:
    words = 0 if dataset.words is None else len(dataset.words)
    return make_model(str(experiment.model), dataset.shape, dataset.classes, words, experiment.model_args)


def model_of(experiment: Experiment) -> Model:
    """Make the model of an experiment.

    Args:
        experiment: configuration.

    Returns:
        the model, on the CPU.

    Raises:
        UserError: as ``build``.
    """
    resolved, dataset, _, _ = prepare(experiment)
    return _make_model(resolved, dataset)


def _choose_backend(
    experiment: Experiment, model: Model, sample: Tensor, sparse: bool, ranks: Ranks, sizes: Sequence[int]
) -> Backend:
    """Choose how clients are trained; all ranks use the smallest chunk that any of them can train.

    Args:
        experiment: the resolved configuration.
        model: functional model.
        sample: one training sample as a model input.
        sparse: whether clients train only the rows of the embedding that their texts touch.
        ranks: processes that share the clients.
        sizes: number of samples of each client of the federation.

    Returns:
        the back end.
    """
    tokens = most_steps(experiment, sizes) * experiment.batch_size * sample.numel()
    backend = choose_backend(
        experiment.backend,
        experiment.chunk,
        at_most_with_rows(model, tokens) if sparse else model,
        sample.to("meta"),
        experiment.batch_size,
        -(-(experiment.participants or experiment.clients) // ranks.count),
        torch.device(experiment.device),
        max(each.copies for each in experiment.optimizers),
    )
    return replace(backend, chunk=int(-ranks.all_max(-backend.chunk)[0]))


def _check_ranks(federation: Federation) -> None:
    """Refuse methods that cannot run on sharded columns, and ranks with different settings or data."""
    if federation.ranks.is_single:
        return
    if federation.model.layout.carried:
        raise UserError(
            f"model '{federation.model.name}' carries running statistics, which {federation.ranks.count} ranks would "
            "have to average apart from the columns that they share; run it in one process, or without batch "
            "normalisation"
        )
    for defense, name in zip(
        (federation.defense, *federation.shadows),
        (federation.experiment.defense, *(shadow.name for shadow in federation.experiment.shadows)),
        strict=True,
    ):
        _check_divisible("defense", defense.name, federation, defense.needs_all_columns, name in DEFENSES)
    attack = str(federation.experiment.attack)
    _check_divisible("attack", attack, federation, federation.attack.needs_all_columns, attack in ATTACKS)
    own = {**federation.experiment.to_dict(), "data_dir": None, "start": None}  # their contents are compared
    seen = blake2b(json.dumps(own, sort_keys=True, default=str).encode(), digest_size=6)
    for labels in (federation.train_y, federation.test_y):
        seen.update(labels.cpu().numpy().tobytes())
    number = int.from_bytes(seen.digest(), "little")
    largest, negated = federation.ranks.all_max(number, -number)
    if largest != -negated:
        raise UserError("the ranks do not run the same experiment: their settings or the labels of their data differ")


def _check_divisible(kind: str, name: str, federation: Federation, needs_all_columns: bool | None, ours: bool) -> None:
    """Refuse a method that needs all columns of the updates, or a third-party one that does not declare it."""
    where = f"each of the {federation.ranks.count} ranks holds a part of the columns of the updates"
    if needs_all_columns:
        raise UserError(
            f"{kind} '{name}' with these parameters needs complete updates, but {where}; run it in one process"
        )
    if needs_all_columns is None and not ours:
        raise UserError(
            f"{kind} '{name}' does not declare `needs_all_columns`, but {where}; `needs_all_columns=False` allows it"
        )


def empty_state(federation: Federation) -> ServerState:
    """Return a server of the right shapes: drawn initial parameters, zeros with ``--start``, and initial states.

    Args:
        federation: what no round changes.

    Returns:
        the server; a defense that learns before the first round has not learned yet.
    """
    start = federation.experiment.start
    if start is None:
        params_D = federation.model.init(generator(federation.experiment.seed, "model")).to(federation.device)
    else:
        params_D = torch.zeros(federation.model.layout.size, device=federation.device)
    columns = federation.ranks.width(federation.defense_columns)
    size = (federation.experiment.clients, columns, federation.device)
    with federation.ranks.sharded_columns(len(params_D)):
        return ServerState(
            0,
            params_D,
            federation.defense.init(*size),
            tuple(shadow.init(*size) for shadow in federation.shadows),
            params_D if "history" in federation.needs else None,
            federation.attack.init(columns, federation.device),
            federation.server_optimizer.init(params_D[: federation.server_columns]),
        )


def check_start(experiment: Experiment) -> None:
    """Check whether a run can start from the parameters that it names, if it names any.

    Args:
        experiment: as the user wrote it.

    Raises:
        UserError: as ``build`` and ``read_start``.
    """
    if experiment.start is not None:
        read_start(Path(str(resolve(experiment).start)), model_of(experiment))


def initial_state(federation: Federation, start_sha256: str | None = None) -> ServerState:
    """Return the server before round 0: as ``empty_state``, but with the stored start, and with what a defense learns.

    Args:
        federation: what no round changes.
        start_sha256: SHA-256 that the file of the start must have; None: any.

    Returns:
        the server.

    Raises:
        UserError: the start cannot be read or does not fit the model.
    """
    server = empty_state(federation)
    if federation.experiment.start is not None:
        params_D = read_start(Path(federation.experiment.start), federation.model, start_sha256, federation.ranks).to(
            federation.device
        )
        server = replace(server, params_D=params_D, previous_D=None if server.previous_D is None else params_D)
    learned = pretrain_defense(federation, server.params_D)
    return server if learned is None else replace(server, defense_state=learned)
