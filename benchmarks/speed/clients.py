"""W6-round: whole rounds on real data: MNIST by Dirichlet with up to 10,000 clients, FEMNIST's CNN with 1,600 clients.

Axes: N clients of the round, D parameters.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.cases import Case, Prepared
from benchmarks.speed.defenses import least_bytes as defense_bytes
from benchmarks.speed.defenses import operations as defense_operations
from benchmarks.speed.measure import Wrong, agreement
from benchmarks.speed.training import TOLERANCE, keep_updates, updates_of
from benchmarks.speed.workloads import WORKLOADS
from rflbat.experiment.config import Experiment
from rflbat.round.round import run_round
from rflbat.round.setup import build, empty_state
from rflbat.round.state import Federation, RoundOutcome

OURS = "rflbat"
DEFENSES = ("fedavg", "rflbat", "multikrum", "geomed", "median")
"""No defense, then one for each access pattern: all pairs and a clustering, all pairs, passes, columns."""
ROUNDS = (
    *(("W1", "mnist", clients, defense) for defense in DEFENSES for clients in (100, 1_000, 4_000, 10_000)),
    ("W2", "femnist", 1_600, "rflbat"),
)
STEPS, BATCH, MALICIOUS = 2, 6, 0.5
CHECKED = 10**8
"""Most numbers (clients x parameters) of updates that the plain loop recomputes for the check."""
AT_TIES, FARTHEST = 0.05, 0.05
"""Share of the CNN's updates that may exceed the tolerance, and by how much. At a tie of a ReLU or a pool the two
roundings may differ: in eight of 400 updates; against float64 three of these errors are the plain loop's, five ours."""


def world_of(dataset: str, clients: int, defense: str) -> Federation:
    """Build the federation of ``rflbat run DATASET --partition dirichlet --clients N --defense D``; all take part."""
    experiment = Experiment(
        **{"dataset": dataset, "partition": "dirichlet", "clients": clients, "participants": clients, "rounds": 10**9},
        **{"local_steps": STEPS, "batch_size": BATCH, "malicious": MALICIOUS, "defense": defense, "device": "cpu"},
        **{"eval_every": 10**9, "alpha": 1.0},
    )
    return build(experiment)


def stride_of(clients: int, parameters: int) -> int:
    """Return the stride of the clients that are trained again: 1 for all of them.

    Example:
        >>> stride_of(10_000, 7_850), stride_of(1_600, 214_590)
        (1, 4)
    """
    return -(-clients * parameters // CHECKED)


def expect(name: str, dataset: str, clients: int, folder: Path) -> None:
    """Store the updates of every client, or of a subset."""
    workload = WORKLOADS[name]
    keep_updates(world_of(dataset, clients, "fedavg"), workload, folder, stride_of(clients, workload.parameters))


def nearly_all(found_ND: np.ndarray, expected_ND: np.ndarray) -> str:
    """Compare updates row by row, in float64, and allow a few that differ at a tie.

    Args:
        found_ND: updates.
        expected_ND: expected updates, none of them 0.

    Returns:
        the largest and the typical error, in words.

    Raises:
        Wrong: too many are too far off, or one much too far.

    Example:
        >>> nearly_all(np.ones((2, 3)), np.ones((2, 3)))
        "2 updates as the plain loop's, the median to 0.0e+00, 100% within 1e-03"
    """
    norm = np.linalg.norm
    pairs = zip(found_ND, expected_ND, strict=True)
    error_N = np.array([norm(row.astype(np.float64) - right) / norm(right.astype(np.float64)) for row, right in pairs])
    within = (error_N <= TOLERANCE).mean()
    how = f"the median to {np.median(error_N):.1e}, {within:.0%} within {TOLERANCE:.0e}"
    if not (within >= 1 - AT_TIES and error_N.max() <= FARTHEST):
        raise Wrong(f"{len(error_N):,} updates as the plain loop's: {how}, the farthest off by {error_N.max():.1e}")
    return f"{len(error_N):,} updates as the plain loop's, {how}"


def verify(federation: Federation, moved_D: torch.Tensor, outcome: RoundOutcome, folder: Path) -> str:
    """Compare the updates with the plain loop's, and the step with the decision applied to those."""
    expected_ND = np.load(folder / "updates.npy", mmap_mode="r")
    server, clients = empty_state(federation), len(federation.client_indices)
    stride = stride_of(clients, len(moved_D))
    found_ND = updates_of(federation, server)[::stride]
    if stride > 1:
        return nearly_all(found_ND.numpy(), expected_ND)
    how = agreement(found_ND, expected_ND, TOLERANCE, f"{len(expected_ND):,} updates as the plain loop's")
    if federation.defense.name == "median":
        step_D = np.median(expected_ND, axis=0)
    else:
        step_D = outcome.decision.weights.numpy() @ expected_ND.astype(np.float64)
    return how + "; " + agreement([moved_D - server.params_D], [step_D], TOLERANCE, "the decision's step")


def prepare(dataset: str, clients: int, defense: str, _contender: str) -> Prepared:
    """Prepare rounds of rflbat."""
    federation = world_of(dataset, clients, defense)
    server, first = empty_state(federation), []

    def play() -> None:
        after, outcome = run_round(federation, server)
        if not first:
            first.append((after.params_D, outcome))

    def check(folder: Path) -> str:
        kept_N, malicious_N = first[0][1].decision.kept.numpy(), first[0][1].malicious_N
        who = f"kept {kept_N[~malicious_N].mean():.0%} of the honest, {kept_N[malicious_N].mean():.0%} of the malicious"
        return f"{verify(federation, *first[0], folder)}; {who}"

    chosen = federation.backend
    version = f"{federation.defense.name}, {chosen.name}, {chosen.chunk} at a time, torch {torch.__version__}"
    return Prepared(play, check, version, chosen.workers)


def round_case(name: str, dataset: str, clients: int, defense: str) -> Case:
    """Build the case of one number of clients.

    Args:
        name: name of the workload whose model is trained.
        dataset: data set of rflbat.
        clients: N.
        defense: defense of rflbat.
    """
    parameters = WORKLOADS[name].parameters
    shape = (clients, parameters)
    # Count only the updates that training writes: the number of samples of a client is random.
    title = f"{defense} and its round: {clients:,} clients of {dataset} by Dirichlet, half malicious"
    return Case(
        f"W6-round-{dataset}-{defense}-{clients}",
        f"{title}, {STEPS} steps of {BATCH}",
        *(*shape, defense_operations(defense, *shape), 4.0 * clients * parameters + defense_bytes(defense, *shape)),
        *((OURS,), OURS),
        *(partial(expect, name, dataset, clients), partial(prepare, dataset, clients, defense)),
        repeats=1 if clients > 4_000 else 3,
        threads=(2,),
    )


def client_cases() -> Iterator[Case]:
    """Yield the cases."""
    return (round_case(*each) for each in ROUNDS)
