"""FedLab 1.3.0: its serial federated averaging trainer, one worker."""

import sys

import torch
from fedlab.contrib.algorithm.fedavg import FedAvgSerialClientTrainer, FedAvgServerHandler
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.speed.peers.contract import Training, peak_bytes, publish, timed_rounds, training_parser
from benchmarks.speed.peers.environments import PEERS
from benchmarks.speed.peers.torch_models import mean_loss, torch_data, torch_model


class Clients:
    """Data set interface of FedLab."""

    def __init__(self, x: Tensor, y: Tensor, batch: int) -> None:
        self.sets = [TensorDataset(x_client, y_client) for x_client, y_client in zip(x, y, strict=True)]

    def get_dataloader(self, client: int, batch_size: int) -> DataLoader:
        """Return a client's batches in a new order."""
        return DataLoader(self.sets[client], batch_size=batch_size, shuffle=True)


def main() -> None:
    options = training_parser("fedlab").parse_args()
    if options.workers > 1:
        sys.exit("FedLab: its serial trainer is one worker")
    torch.set_num_threads(options.threads)
    workload = options.workload
    x, y = torch_data(workload)
    server = FedAvgServerHandler(torch_model(workload), global_round=options.rounds + 1, sample_ratio=1.0)
    server.num_clients = workload.clients
    trainer = FedAvgSerialClientTrainer(torch_model(workload), workload.clients)
    trainer.setup_dataset(Clients(x, y, workload.batch))
    trainer.setup_optim(1, workload.batch, workload.lr)
    before = mean_loss(server.model, x, y)

    def play() -> None:
        clients = server.sample_clients()
        trainer.local_process(server.downlink_package, clients)
        for package in trainer.uplink_package:
            server.load(package)

    seconds = timed_rounds(play, options.rounds)
    peak, after, row = peak_bytes(), mean_loss(server.model, x, y), PEERS["fedlab"]
    publish(Training(row.title, row.version, workload.name, options.threads, 1, seconds, peak, before, after))


if __name__ == "__main__":
    main()
