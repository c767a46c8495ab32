"""W1 to W3: one round of federated averaging of all clients: rflbat, a loop of modules, and the peers.

Axes: N clients of the round, S local steps, B batch, D parameters.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from benchmarks.speed.baselines import Batch, flat, plain_round, shuffled, train_client
from benchmarks.speed.cases import Case, Prepared, Question
from benchmarks.speed.federation import make_federation
from benchmarks.speed.measure import Timing, Wrong, agreement
from benchmarks.speed.peers import contract
from benchmarks.speed.peers.environments import PEERS
from benchmarks.speed.peers.torch_models import mean_loss, torch_data, torch_model
from benchmarks.speed.workloads import WORKLOADS, Workload, least_bytes, operations
from rflbat.clients.backend import BACKENDS
from rflbat.clients.executor import same_start
from rflbat.clients.step import make_batch_source
from rflbat.round.draws import RoundDraws, draw_round
from rflbat.round.round import run_round
from rflbat.round.setup import empty_state
from rflbat.round.state import Federation, ServerState

OURS, PLAIN = "rflbat", "plain loop"
TOLERANCE = 1e-3
"""Relative tolerance: the order of the float32 sums differs, and so may the side of a tie of a ReLU or a pool."""
TITLES = {
    "W1": "logistic regression, 7,850 parameters: 100 clients of 600 images, 10 steps of 60",
    "W2": "CNN, 214,590 parameters: 100 clients of 100 images, 5 steps of 20",
    "W3": "LSTM, 5,766,089 parameters: 20 clients of 40 texts of 100 tokens, 2 steps of 20",
}
REPEATS = {"W1": 12, "W2": 4, "W3": 6}
WORKERS = frozenset({"pfl", "blazefl", "flower"})
"""Peers that use a second core through a second worker; the others use a second thread."""


def first_plan(federation: Federation) -> RoundDraws:
    """Draw round 0 as ``run_round`` does."""
    return draw_round(
        federation.experiment, 0, federation.client_indices, federation.attack.poison_fraction, uniforms=0
    )


def start_module(workload: Workload, start_D: Tensor) -> nn.Module:
    """Build the torch module with the engine's initial parameters; both store them in the same order."""
    module = torch_model(workload)
    vector_to_parameters(start_D, module.parameters())
    return module


def batches_of(federation: Federation, draws: RoundDraws, client: int, shape: tuple[int, ...]) -> Iterator[Batch]:
    """Yield a client's batches without padding; those of a malicious client are stamped and relabelled."""
    batches = draws.batches
    for index_B, weight_B, poisoned_B in zip(
        batches.index_NSB[client], batches.weight_NSB[client], batches.poisoned_NSB[client], strict=True
    ):
        present_B = weight_B > 0
        x_B, labels_B = federation.train_x[index_B[present_B]], federation.train_y[index_B[present_B]]
        if draws.malicious[client]:
            x_B = federation.attack.full_trigger(x_B, poisoned_B[present_B])
            labels_B = labels_B.masked_fill(poisoned_B[present_B], federation.experiment.target)
        yield x_B.view(-1, *shape), labels_B


def keep_updates(federation: Federation, workload: Workload, folder: Path, stride: int = 1) -> None:
    """Train clients of round 0 by the plain loop, and store their updates.

    Args:
        federation: federation of the case.
        workload: workload whose model is trained.
        folder: target folder of ``updates.npy``.
        stride: train every ``stride``-th client.
    """
    start_D, draws = empty_state(federation).params_D, first_plan(federation)
    module = start_module(workload, start_D)
    chosen = range(0, len(federation.client_indices), stride)
    shape = (len(chosen), len(start_D))
    updates_ND = np.lib.format.open_memmap(folder / "updates.npy", mode="w+", dtype=np.float32, shape=shape)
    for row, client in enumerate(chosen):
        local = train_client(module, batches_of(federation, draws, client, workload.shape), federation.experiment.lr)
        updates_ND[row] = flat(local) - start_D
    updates_ND.flush()


def expect(workload: Workload, folder: Path) -> None:
    """Store the update of every client."""
    keep_updates(make_federation(workload), workload, folder)


def updates_of(federation: Federation, server: ServerState) -> Tensor:
    """Train round 0 with the federation's back end and return the updates ``(N, D)``."""
    group_N = torch.zeros(len(federation.client_indices), dtype=torch.int64)
    batches, target = first_plan(federation).batches, federation.experiment.target
    batch_source = make_batch_source(
        federation.train_x, federation.train_y, batches, federation.attack.local_triggers, group_N, target
    )
    updates_ND = torch.empty(len(federation.client_indices), len(server.params_D))
    optimizer = federation.experiment.client_optimizer
    federation.backend.train(updates_ND, same_start(server.params_D), federation.model, batch_source, optimizer)
    return updates_ND


def verify_rounds(federation: Federation, server: ServerState, after_D: Tensor, folder: Path) -> str:
    """Compare every client's update, and the step of the round, with the plain loop's."""
    expected_ND = np.load(folder / "updates.npy", mmap_mode="r")
    how = agreement(updates_of(federation, server), expected_ND, TOLERANCE, "every update as the plain loop's")
    mean_D = sum((row.astype(np.float64) for row in expected_ND), np.zeros(len(after_D))) / len(expected_ND)
    agreement([after_D - server.params_D], [mean_D], TOLERANCE, "the round's step as the plain loop's")
    return how


def prepare_ours(workload: Workload, backend: str) -> Prepared:
    """Prepare rounds of rflbat."""
    federation = make_federation(workload, backend=backend)
    server, first = empty_state(federation), []

    def play() -> None:
        after, _ = run_round(federation, server)
        if not first:
            first.append(after.params_D)

    chosen = federation.backend
    version = f"{chosen.name}, {chosen.chunk} at a time, torch {torch.__version__}"
    return Prepared(play, lambda folder: verify_rounds(federation, server, first[0], folder), version, chosen.workers)


def prepare_plain(workload: Workload) -> Prepared:
    """Prepare rounds of the plain loop; its updates are the reference, so its rounds must lower the loss."""
    x, y = torch_data(workload)
    module = torch_model(workload)
    before = mean_loss(module, x, y)

    def play() -> None:
        clients = (shuffled(own_x, own_y, workload.batch) for own_x, own_y in zip(x, y, strict=True))
        plain_round(module, clients, workload.clients, workload.lr)

    def verify(folder: Path) -> str:
        return fallen(before, mean_loss(module, x, y))

    return Prepared(play, verify, f"torch {torch.__version__}")


def fallen(before: float, after: float) -> str:
    """Check that the loss decreased, and return how far.

    Raises:
        Wrong: it did not decrease.
    """
    if not after < before:
        raise Wrong(f"the loss rose from {before:.4g} to {after:.4g}")
    return f"loss {before:.3g} to {after:.3g}"


def ask(workload: Workload, peer: str, question: Question) -> Timing:
    """Measure a training peer; the contract checks that its loss decreases."""
    workers = question.threads if peer in WORKERS else 1
    settings = ("--workers", workers, "--rounds", question.rounds)
    report = contract.call(contract.Training, peer, workload.name, *settings, threads=question.threads // workers)
    checked = fallen(report.loss_before, report.loss_after)
    return Timing(peer, report.version, report.workers, report.seconds, report.peak_bytes, checked)


def prepare(workload: Workload, contender: str) -> Prepared:
    """Prepare a contender of this environment."""
    if contender == PLAIN:
        return prepare_plain(workload)
    return prepare_ours(workload, contender.removeprefix(OURS).strip() or "auto")


def training_case(name: str, title: str, workload: Workload, contenders: tuple[str, ...], repeats: int) -> Case:
    """Build the case of a workload.

    Args:
        name: name of the case.
        title: title of the case.
        workload: the workload.
        contenders: contenders of this environment.
        repeats: repetitions of each contender.
    """
    task = (workload.clients, workload.parameters, operations(workload), least_bytes(workload))
    run = (contenders, PLAIN, partial(expect, workload), partial(prepare, workload))
    return Case(name, title, *task, *run, repeats=repeats)


def training_cases() -> Iterator[Case]:
    """Yield W1 to W3."""
    for name, workload in WORKLOADS.items():
        contenders = (OURS, *(f"{OURS} {backend}" for backend in BACKENDS[1:]), PLAIN)
        case = training_case(name, TITLES[name], workload, contenders, REPEATS[name])
        peers = tuple(peer for peer, row in PEERS.items() if name in row.runs)
        yield replace(case, peers=peers, ask=partial(ask, workload), blocks=2, threads=(1, 2))
