"""Flower 1.42.0: federated averaging in its simulation engine; the workers are Ray actors.

The seconds of a round run from the end of one aggregation to the end of the next. The peak is that of this process and
of every actor, without Ray's own service processes and its object store.
"""

import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_memory_monitor_refresh_ms="0", RAY_DEDUP_LOGS="0")

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.speed.peers.contract import Training, peak_bytes, publish, quiet, training_parser
from benchmarks.speed.peers.environments import PEERS
from benchmarks.speed.peers.torch_models import mean_loss, torch_model
from benchmarks.speed.workloads import WORKLOADS, Workload, make_data

client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train one client for one epoch; its data are read from the files that the server wrote."""
    settings: Any = message.content["config"]
    torch.set_num_threads(settings["threads"])
    workload, client = WORKLOADS[settings["workload"]], int(context.node_config["partition-id"])
    x, y = (torch.from_numpy(np.load(Path(settings["folder"]) / f"{name}{client}.npy")) for name in "xy")
    model = torch_model(workload)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=workload.lr)
    for x_batch, y_batch in DataLoader(TensorDataset(x, y), batch_size=workload.batch, shuffle=True):
        optimizer.zero_grad()
        cross_entropy(model(x_batch), y_batch).backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(y), "process": os.getpid(), "peak": peak_bytes()})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


class Timed(FedAvg):
    """Flower's strategy, which also records the end of each round and the peak memory of every actor."""

    def __init__(self, clients: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
        self.ends: list[float] = []
        self.peaks: dict[int, int] = {}

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Aggregate as Flower does; a failed client ends the run."""
        replies = list(replies)
        for reply in replies:
            if reply.has_error():
                raise RuntimeError(f"a client failed: {reply.error.reason}")
            metrics: Any = reply.content["metrics"]
            self.peaks[metrics["process"]] = metrics["peak"]
        result = super().aggregate_train(server_round, replies)
        self.ends.append(time.perf_counter())
        return result


def simulate(workload: Workload, folder: str, options: Any) -> tuple[Timed, ArrayRecord]:
    """Run the warm-up and the rounds; return the strategy with its times, and the final model."""
    server_app, strategy, final = ServerApp(), Timed(workload.clients), []

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        settings = ConfigRecord({"workload": workload.name, "folder": folder, "threads": options.threads})
        start = ArrayRecord(torch_model(workload).state_dict())
        final.append(strategy.start(grid, start, num_rounds=options.rounds + 1, train_config=settings).arrays)

    ray: Any = {"num_cpus": options.workers, "include_dashboard": False}
    resources: Any = {"num_cpus": 1, "num_gpus": 0.0}
    run_simulation(
        server_app, client_app, workload.clients, backend_config={"client_resources": resources, "init_args": ray}
    )
    return strategy, final[0]


def main() -> None:
    options = training_parser("flower").parse_args()
    workload, model = options.workload, torch_model(options.workload)
    x, y = make_data(workload)
    losses = [mean_loss(model, torch.from_numpy(x), torch.from_numpy(y))]
    with tempfile.TemporaryDirectory() as folder, quiet():
        for client in range(workload.clients):
            np.save(Path(folder) / f"x{client}.npy", x[client])
            np.save(Path(folder) / f"y{client}.npy", y[client])
        strategy, final = simulate(workload, folder, options)
    peak = peak_bytes() + sum(strategy.peaks.values())
    model.load_state_dict(final.to_torch_state_dict())
    losses.append(mean_loss(model, torch.from_numpy(x), torch.from_numpy(y)))
    row, seconds = PEERS["flower"], tuple(np.diff(strategy.ends).tolist())
    publish(Training(row.title, row.version, workload.name, options.threads, options.workers, seconds, peak, *losses))


if __name__ == "__main__":
    main()
