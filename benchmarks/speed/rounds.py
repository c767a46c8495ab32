"""W5: one whole round with RFLBAT, half of the clients malicious, and its evaluation, for each of the paper's models.

Axes: N clients of the round, S local steps, B batch, D parameters.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from benchmarks.speed.baselines import flat, sklearn_rflbat, train_client
from benchmarks.speed.cases import Case, Prepared
from benchmarks.speed.defenses import operations as defense_operations
from benchmarks.speed.federation import MODEL, make_federation
from benchmarks.speed.measure import agreement
from benchmarks.speed.training import TOLERANCE, batches_of, first_plan, start_module
from benchmarks.speed.workloads import WORKLOADS, Workload, forward_operations, least_bytes, operations
from rflbat.round.evaluation import BATCH
from rflbat.round.round import run_round
from rflbat.round.setup import empty_state
from rflbat.round.state import Federation

OURS, PLAIN = "rflbat", "plain loop"
TESTS = {"W1": 10_000, "W2": 4_700, "W3": 2_000}
"""Test samples: MNIST's own, those of 300 writers of LEAF, and a tenth of a small Amazon."""
MALICIOUS = 0.5


def world_of(workload: Workload, tests: int) -> Federation:
    """Build the federation of a case."""
    return make_federation(workload, defense="rflbat", malicious=MALICIOUS, tests=tests)


class PlainRound:
    """The same round as a plain script: modules in a loop, scikit-learn, and the test set in batches."""

    def __init__(self, federation: Federation, workload: Workload) -> None:
        self.federation, self.shape = federation, workload.shape
        self.start_D = empty_state(federation).params_D
        self.module = start_module(workload, self.start_D)
        self.draws = first_plan(federation)

    @torch.no_grad()
    def measure(self) -> Tensor:
        """Count accuracy and both attack success rates."""
        federation, right = self.federation, torch.zeros(3, dtype=torch.float64)
        for x_B, labels_B in zip(federation.test_x.split(BATCH), federation.test_y.split(BATCH), strict=True):
            everyone_B = torch.ones(len(x_B), dtype=torch.bool)
            stamped_B = federation.attack.full_trigger(x_B.clone(), everyone_B)
            correct_B = self.module(x_B.view(-1, *self.shape)).argmax(1) == labels_B
            hit_B = self.module(stamped_B.view(-1, *self.shape)).argmax(1) == federation.experiment.target
            other_B = labels_B != federation.experiment.target
            right += torch.stack([correct_B.sum(), (hit_B & other_B).sum(), hit_B.sum()])
        everybody, others = len(federation.test_y), int((federation.test_y != federation.experiment.target).sum())
        return right / torch.tensor([everybody, others, everybody])

    def play(self) -> tuple[Tensor, Tensor]:
        """Train, defend, apply and evaluate; return the new parameters and the measures."""
        vector_to_parameters(self.start_D, self.module.parameters())
        updates_ND = np.empty((len(self.draws.malicious), len(self.start_D)), np.float32)
        for client in range(len(updates_ND)):
            batches = batches_of(self.federation, self.draws, client, self.shape)
            local = train_client(self.module, batches, self.federation.experiment.lr)
            updates_ND[client] = flat(local) - self.start_D
        vector_to_parameters(self.start_D + torch.from_numpy(sklearn_rflbat(updates_ND)), self.module.parameters())
        return flat(self.module), self.measure()


def expect(workload: Workload, tests: int, folder: Path) -> None:
    """Store the parameters and the measures after the plain round."""
    params_D, measures = PlainRound(world_of(workload, tests), workload).play()
    np.save(folder / "params.npy", params_D)
    np.save(folder / "measures.npy", measures)


def verify(start_D: Tensor, params_D: Tensor, measures: Tensor, folder: Path) -> str:
    """Compare the step of the global model, and the three measures, with those of the plain round."""
    step_D = np.load(folder / "params.npy") - start_D.numpy()
    how = agreement([params_D - start_D], [step_D], TOLERANCE, "the global step as the plain round's")
    agreement([1 + measures], [1 + np.load(folder / "measures.npy")], TOLERANCE, "1 + the measures")
    return how


def prepare(workload: Workload, tests: int, contender: str) -> Prepared:
    """Prepare rflbat or the plain round; each repetition is round 0 from the same start."""
    federation, first = world_of(workload, tests), []
    server = empty_state(federation)
    plain = PlainRound(federation, workload) if contender == PLAIN else None

    def play() -> None:
        if plain is None:
            after, outcome = run_round(federation, server)
            result = after.params_D, outcome.measures
        else:
            result = plain.play()
        if not first:
            first.append(result)

    def check(folder: Path) -> str:
        how = verify(server.params_D, *first[0], folder)
        return "the reference" if plain else how

    version = f"torch {torch.__version__}" if plain else f"{federation.backend.name}, torch {torch.__version__}"
    workers = 1 if plain else federation.backend.workers
    return Prepared(play, check, version, workers)


def round_case(workload: Workload, tests: int) -> Case:
    """Build the case of a workload.

    Args:
        workload: the workload.
        tests: number of test samples.
    """
    clients, parameters = workload.clients, workload.parameters
    # Each test sample is classified twice: clean and triggered.
    work = operations(workload) + 2 * tests * forward_operations(workload)
    return Case(
        f"W5-{MODEL[workload.name][1]}",
        f"a round of {workload.name}, half of its clients malicious, RFLBAT, {tests:,} tests clean and triggered",
        *(clients, parameters, work + defense_operations("rflbat", clients, parameters), least_bytes(workload)),
        *((OURS, PLAIN), PLAIN, partial(expect, workload, tests), partial(prepare, workload, tests)),
        repeats=3,
    )


def round_cases() -> Iterator[Case]:
    """Make W5."""
    for name, workload in WORKLOADS.items():
        yield round_case(workload, TESTS[name])
