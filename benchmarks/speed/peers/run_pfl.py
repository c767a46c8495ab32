"""pfl-research 0.6.0: FederatedAveraging on a SimulatedBackend; more workers are processes of torchrun, with gloo.

pfl-research splits a user's data into batches once and keeps them. The contract requires a new order in every round, so
this harness rebuilds a user's data set whenever the user takes part; ``--keep-batches`` turns that off.
"""

import os
import sys
import time

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.speed.peers.contract import Training, peak_bytes, publish, quiet, training_parser
from benchmarks.speed.peers.environments import PEERS
from benchmarks.speed.peers.torch_models import mean_loss, torch_data, torch_model
from benchmarks.speed.workloads import Workload

EVALUATED = 1
"""pfl-research always evaluates in round 0: that round, and the warm-up after it, are not counted."""


class Trained(nn.Module):
    """The module with the two methods that pfl-research calls."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def loss(self, x: Tensor, y: Tensor, **_: object) -> Tensor:
        """Return the loss of a batch."""
        return cross_entropy(self.net(x), y)

    def metrics(self, x: Tensor, y: Tensor, **_: object) -> dict[str, Weighted]:
        """Return a minimal metric; only round 0 evaluates."""
        return {"samples": Weighted(len(y), 1)}


class Clock(TrainingProcessCallback):
    """Record the times at which rounds end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Record the time; never stop."""
        self.ends.append(time.perf_counter())
        return False, Metrics()


def users(workload: Workload, x: Tensor, y: Tensor, keep_batches: bool) -> FederatedDataset:
    """Build the federated data set, with all users in every round."""
    names = [str(client) for client in range(workload.clients)]
    kept = {name: PyTorchTensorDataset((x[int(name)], y[int(name)]), user_id=name) for name in names}

    def shuffled(name: str) -> PyTorchTensorDataset:
        order = torch.randperm(workload.samples)
        return PyTorchTensorDataset((x[int(name)][order], y[int(name)][order]), user_id=name)

    return FederatedDataset(kept.__getitem__ if keep_batches else shuffled, MinimizeReuseUserSampler(names))


def train(workload: Workload, net: nn.Module, data: FederatedDataset, rounds: int) -> tuple[float, ...]:
    """Run the rounds and return the seconds of the timed ones."""
    clock = Clock()
    count = EVALUATED + 1 + rounds
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=count,
            evaluation_frequency=10**9,
            train_cohort_size=workload.clients,
            val_cohort_size=None,
        ),
        SimulatedBackend(training_data=data, val_data=data),
        PyTorchModel(Trained(net), torch.optim.SGD, torch.optim.SGD(net.parameters(), 1.0)),
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=workload.lr, local_batch_size=workload.batch),
        NNEvalHyperParams(local_batch_size=None),
        callbacks=[clock],
        send_metrics_to_platform=False,  # printing them would add to the time
    )
    return tuple(end - start for start, end in zip(clock.ends[EVALUATED:], clock.ends[EVALUATED + 1 :], strict=False))


def main() -> None:
    parser = training_parser("pfl")
    parser.add_argument("--keep-batches", action="store_true", help="never shuffle, which is pfl-research's default")
    options = parser.parse_args()
    if options.workers > 1 and "RANK" not in os.environ:  # replace this process by the launcher of the workers
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(options.workers)]
        module = ["-m", __spec__.name if __spec__ else "", *sys.argv[1:]]
        os.execv(sys.executable, [sys.executable, *launcher, *module])
    torch.set_num_threads(options.threads)
    workload = options.workload
    x, y = torch_data(workload)
    net = torch_model(workload)
    before = mean_loss(net, x, y)
    with quiet():
        seconds = train(workload, net, users(workload, x, y, options.keep_batches), options.rounds)
    peak = torch.tensor(peak_bytes())
    if options.workers > 1:
        torch.distributed.all_reduce(peak)
        if torch.distributed.get_rank() > 0:
            os._exit(0)
    row, after = PEERS["pfl"], mean_loss(net, x, y)
    ends = (seconds, int(peak), before, after)
    publish(Training(row.title, row.version, workload.name, options.threads, options.workers, *ends))
    if options.workers > 1:
        # As above: gloo's threads sometimes abort a finished process at interpreter exit.
        os._exit(0)


if __name__ == "__main__":
    main()
