"""BlazeFL 3.0.0: its federated averaging trainers: the sequential one for one worker, a thread pool for more."""

from enum import StrEnum
from typing import Any

import torch
from blazefl.contrib import fedavg
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.speed.peers.contract import Training, peak_bytes, publish, timed_rounds, training_parser
from benchmarks.speed.peers.environments import PEERS
from benchmarks.speed.peers.torch_models import mean_loss, torch_data, torch_model
from benchmarks.speed.workloads import Workload


class Name(StrEnum):
    """Model names: BlazeFL selects models by name."""

    MODEL = "model"


class Selector:
    """Model selector with one model."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload

    def select_model(self, name: str) -> nn.Module:
        """Return the model."""
        return torch_model(self.workload)


class Clients:
    """Data set interface of BlazeFL."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.sets = [TensorDataset(x_client, y_client) for x_client, y_client in zip(x, y, strict=True)]

    def get_dataset(self, type_: str, cid: int) -> TensorDataset:
        """Return a client's data."""
        return self.sets[cid]

    def get_dataloader(
        self, type_: str, cid: int, batch_size: int, generator: torch.Generator | None = None
    ) -> DataLoader:
        """Return a client's batches in a new order."""
        return DataLoader(self.sets[cid], batch_size=batch_size, shuffle=True, generator=generator)


def trainer_of(workload: Workload, clients: Clients, workers: int) -> Any:
    """Build the trainer for a number of workers."""
    shared = {"model_selector": Selector(workload), "model_name": Name.MODEL, "dataset": clients, "device": "cpu"}
    shared |= {"num_clients": workload.clients, "epochs": 1, "batch_size": workload.batch, "lr": workload.lr, "seed": 0}
    if workers == 1:
        return fedavg.FedAvgBaseClientTrainer(**shared)
    return fedavg.FedAvgThreadPoolClientTrainer(num_parallels=workers, **shared)


def main() -> None:
    options = training_parser("blazefl").parse_args()
    torch.set_num_threads(options.threads)
    fedavg.tqdm = lambda clients, **_: clients  # progress bars would add to the time
    workload = options.workload
    x, y = torch_data(workload)
    clients, n = Clients(x, y), workload.clients
    server = fedavg.FedAvgBaseServerHandler(
        Selector(workload), Name.MODEL, clients, options.rounds + 1, n, 1.0, "cpu", workload.batch, 0
    )
    trainer = trainer_of(workload, clients, options.workers)
    before = mean_loss(server.model, x, y)

    def play() -> None:
        trainer.local_process(server.downlink_package(), server.sample_clients())
        for package in trainer.uplink_package():
            server.load(package)

    seconds = timed_rounds(play, options.rounds)
    peak, after, row = peak_bytes(), mean_loss(server.model, x, y), PEERS["blazefl"]
    ends = (seconds, peak, before, after)
    publish(Training(row.title, row.version, workload.name, options.threads, options.workers, *ends))


if __name__ == "__main__":
    main()
