"""Both apps of a small federation of Flower: digits by softmax regression, where one client sends poisoned updates."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from sklearn.datasets import load_digits

from rflbat.interop.flower import DefenseStrategy

CLIENTS, POISONED, ROUNDS = 6, 2, 3

client_app = ClientApp()
server_app = ServerApp()


def digits() -> tuple[Any, Any]:
    x, y = load_digits(return_X_y=True)
    return np.column_stack([x / 16.0, np.ones(len(x))]).astype(np.float32), y


def gradient(weights: Any, x: Any, y: Any) -> Any:
    logits = x @ weights
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    share[np.arange(len(y)), y] -= 1.0
    return x.T @ share / len(y)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    client = int(context.node_config["partition-id"])
    x, y = (part[client::CLIENTS] for part in digits())
    [start] = message.content["arrays"].to_numpy_ndarrays()
    weights = start.copy()
    for _ in range(20):
        weights -= 0.5 * gradient(weights, x, y)
    if client == POISONED:
        weights = start - 20.0 * (weights - start)
    metrics = MetricRecord({"num-examples": len(y), "partition-id": client})
    return Message(RecordDict({"arrays": ArrayRecord([weights]), "metrics": metrics}), reply_to=message)


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    defense = os.environ["FEDERATION_DEFENSE"]
    params = {"f": 1, "m": 4} if defense == "multikrum" else {}
    few: Any = {"fraction_evaluate": 0.0, "min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}
    strategy = DefenseStrategy(defense, params, order_by="partition-id", **few)
    start = ArrayRecord([np.zeros((65, 10), np.float32)])
    result = strategy.start(grid, start, num_rounds=ROUNDS, timeout=300)
    [weights] = result.arrays.to_numpy_ndarrays()
    x, y = digits()
    told: dict[str, Any] = {
        "accuracy": float(((x @ weights).argmax(1) == y).mean()),
        "model": hashlib.sha256(weights.tobytes()).hexdigest(),
        "rounds": [dict(metrics) for metrics in result.train_metrics_clientapp.values()],
    }
    out = Path(os.environ["FEDERATION_OUT"])
    out.with_suffix(".part").write_text(json.dumps(told), encoding="utf-8")
    out.with_suffix(".part").replace(out)


def simulate() -> None:
    """Run the federation in Flower's simulation, in this process and Ray's."""
    from flwr.simulation import run_simulation

    ray: Any = {"num_cpus": 2, "include_dashboard": False}
    resources: Any = {"num_cpus": 1, "num_gpus": 0.0}
    run_simulation(server_app, client_app, CLIENTS, backend_config={"client_resources": resources, "init_args": ray})
