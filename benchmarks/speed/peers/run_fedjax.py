"""FedJAX 0.0.17 on JAX 0.4.38: federated averaging with the "jit" back end, one worker.

The LSTM is Haiku's, with one bias vector where torch has two: 5,765,689 parameters instead of 5,766,089.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import fedjax
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.speed.peers.contract import Training, peak_bytes, publish, timed_rounds, training_parser
from benchmarks.speed.peers.environments import PEERS
from benchmarks.speed.workloads import Workload, make_data

Forward = Callable[[jax.Array], jax.Array]


def logistic(x: jax.Array, classes: int) -> jax.Array:
    """Return the logits of W1."""
    return hk.Linear(classes)(x)


def cnn(x: jax.Array, classes: int) -> jax.Array:
    """Return the logits of W2; JAX expects the channels last."""
    x = jnp.transpose(x, (0, 2, 3, 1))
    for channels, width in ((32, 7), (64, 3)):
        x = jax.nn.relu(hk.Conv2D(channels, width, padding="SAME")(x))
        x = hk.max_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return hk.Linear(classes)(x.reshape(len(x), -1))


def lstm(tokens: jax.Array, words: int, classes: int) -> jax.Array:
    """Return the logits of W3."""
    core = hk.LSTM(100)
    embedded = hk.Embed(words, 100)(tokens)
    outputs, _ = hk.dynamic_unroll(core, embedded, core.initial_state(len(tokens)), time_major=False)
    return hk.Linear(classes)(jax.nn.relu(hk.Linear(64)(outputs[:, -1])))


def forward(workload: Workload) -> Forward:
    """Return the model of a workload, before Haiku's transformation."""
    if workload.words:
        return lambda x: lstm(x, workload.words, workload.classes)
    return lambda x: (logistic if len(workload.shape) == 1 else cnn)(x, workload.classes)


def federate(workload: Workload) -> tuple[Callable[[], object], Callable[[], float]]:
    """Return functions for one round and for the loss of the global model over all clients."""
    x, y = make_data(workload)
    x, y = (np.asarray(array, np.int32 if array.dtype == np.int64 else array.dtype) for array in (x, y))
    net = hk.without_apply_rng(hk.transform(forward(workload)))

    def loss(params: Any, batch: dict[str, jax.Array], rng: object = None) -> jax.Array:
        logits = net.apply(params, batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()

    fedjax.set_for_each_client_backend("jit")
    # Without a seed every call shuffles anew. With a seed, every round would use the same batches.
    batches = fedjax.ShuffleRepeatBatchHParams(batch_size=workload.batch, num_epochs=1)
    local, server = fedjax.optimizers.sgd(workload.lr), fedjax.optimizers.sgd(1.0)
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(jax.grad(loss), local, server, batches)
    keys = jax.random.split(jax.random.PRNGKey(1), workload.clients)
    sets = [fedjax.ClientDataset({"x": x[client], "y": y[client]}) for client in range(workload.clients)]
    clients = list(zip(range(workload.clients), sets, keys, strict=True))
    state = algorithm.init(net.init(jax.random.PRNGKey(0), x[0, :2]))

    def play() -> None:
        nonlocal state
        state, diagnostics = algorithm.apply(state, clients)
        jax.block_until_ready((state, diagnostics))

    compiled = jax.jit(loss)

    def evaluate() -> float:
        return float(np.mean([compiled(state.params, {"x": x[i], "y": y[i]}) for i in range(workload.clients)]))

    return play, evaluate


def main() -> None:
    options = training_parser("fedjax").parse_args()
    if options.workers > 1:
        sys.exit("FedJAX: one worker on a CPU")
    if hasattr(os, "sched_setaffinity"):  # XLA has no thread option; it starts a thread per core of this mask
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.threads :])
    play, evaluate = federate(options.workload)
    before = evaluate()
    play()  # a second warm-up: FedJAX compiles anew when it sees its own output as input
    seconds = timed_rounds(play, options.rounds)
    peak, row = peak_bytes(), PEERS["fedjax"]
    publish(
        Training(row.title, row.version, options.workload.name, options.threads, 1, seconds, peak, before, evaluate())
    )


if __name__ == "__main__":
    main()
