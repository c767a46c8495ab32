"""The workloads of the speed benchmark: their random data and updates, and the least work of a round.

Only numpy is needed, so that every peer can use the module in its own environment. Shapes: N clients, D parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Workload:
    """One round of federated averaging: every client trains one epoch of plain SGD from the same model.

    Attributes:
        name: key in ``WORKLOADS``.
        clients: number of clients; all take part in every round.
        samples: samples of each client.
        batch: samples of one step; divides ``samples``.
        lr: learning rate of the clients.
        classes: number of labels.
        shape: shape of one sample: features, channels x height x width, or tokens.
        words: size of the vocabulary; 0 if samples are not texts.
        parameters: number of parameters of the model.
    """

    name: str
    clients: int
    samples: int
    batch: int
    lr: float
    classes: int
    shape: tuple[int, ...]
    words: int
    parameters: int

    @property
    def steps(self) -> int:
        """Local steps of one client in one round.

        Example:
            >>> [workload.steps for workload in WORKLOADS.values()]
            [10, 5, 2]
        """
        return self.samples // self.batch


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W1", 100, 600, 60, 0.1, 10, (784,), 0, 7_850),
        Workload("W2", 100, 100, 20, 0.1, 62, (1, 28, 28), 0, 214_590),
        Workload("W3", 20, 40, 20, 0.1, 5, (100,), 56_785, 5_766_089),
    )
}
"""W1 logistic regression on flat images; W2 two convolutions (7x7x32 and 3x3x64, padded to the same size, each with
ReLU and a 2x2 max-pool) and a linear layer; W3 embedding of 100, LSTM of 100 units, linear 64 with ReLU, linear."""


def make_data(workload: Workload, seed: int = 0) -> tuple[NDArray[np.float32] | NDArray[np.int64], NDArray[np.int64]]:
    """Draw the data of all clients.

    Features are standard normal and tokens uniform over the vocabulary. Half of the labels are class 0 and the rest
    uniform, so that real training lowers the mean loss by the biases alone.

    Args:
        workload: the workload.
        seed: seed of numpy's default generator.

    Returns:
        x ``(clients, samples, *shape)``, float32 or int64 tokens, and y ``(clients, samples)`` int64.

    Example:
        >>> x, y = make_data(WORKLOADS["W3"])
        >>> x.shape, x.dtype.name, y.shape, bool(x.max() < 56_785)
        ((20, 40, 100), 'int64', (20, 40), True)
    """
    stream = np.random.default_rng(seed)
    rows = (workload.clients, workload.samples)
    labels = stream.integers(0, workload.classes, rows, dtype=np.int64)
    labels[stream.random(rows) < 0.5] = 0
    if workload.words:
        return stream.integers(0, workload.words, (*rows, *workload.shape), dtype=np.int64), labels
    return stream.standard_normal((*rows, *workload.shape), dtype=np.float32), labels


def make_updates(clients: int, parameters: int, seed: int = 0) -> NDArray[np.float32]:
    """Draw updates of a round: a common direction plus equally strong noise; the first fifth is shifted twice as far.

    Args:
        clients: N.
        parameters: D.
        seed: seed of numpy's default generator.

    Returns:
        ``(N, D)`` float32.

    Example:
        >>> updates = make_updates(10, 1000)
        >>> updates.shape, updates.dtype.name
        ((10, 1000), 'float32')
        >>> [f"{np.linalg.norm(update - updates[2:].mean(0)):.1f}" for update in updates[:4]]
        ['0.7', '0.7', '0.3', '0.3']
    """
    stream = np.random.default_rng(seed)
    common, shift = 0.01 * stream.standard_normal((2, parameters), dtype=np.float32)
    updates = np.empty((clients, parameters), np.float32)
    for client in range(clients):  # row by row: a temporary of the whole matrix would double the peak memory
        stream.standard_normal(out=updates[client], dtype=np.float32)
        updates[client] *= 0.01
        updates[client] += common
        if client < clients // 5:
            updates[client] += 2 * shift
    return updates


def _logistic(workload: Workload) -> tuple[int, int]:
    return 2 * workload.shape[0] * workload.classes, 0


def _cnn(workload: Workload) -> tuple[int, int]:
    first = 2 * (28 * 28) * 32 * (1 * 7 * 7)
    second = 2 * (14 * 14) * 64 * (32 * 3 * 3)
    last = 2 * (7 * 7 * 64) * workload.classes
    return first, second + last


def _lstm(workload: Workload) -> tuple[int, int]:
    token = 2 * (4 * 100) * (100 + 100)
    head = 2 * (100 * 64 + 64 * workload.classes)
    return 0, workload.shape[0] * token + head


_FORWARD: dict[str, Callable[[Workload], tuple[int, int]]] = {"W1": _logistic, "W2": _cnn, "W3": _lstm}
"""Operations of one sample: of a first layer whose inputs need no gradient, and of all other layers."""


def forward_operations(workload: Workload) -> int:
    """Count the forward operations of one sample in products and convolutions.

    Args:
        workload: a member of ``WORKLOADS``, or one of the same name.

    Example:
        >>> [f"{forward_operations(workload) / 1e6:.2f}" for workload in WORKLOADS.values()]
        ['0.02', '10.07', '16.01']
    """
    return sum(_FORWARD[workload.name](workload))


def operations(workload: Workload) -> int:
    """Count the operations of one round in products and convolutions, forward and backward.

    A multiplication and its addition count 2. The backward pass costs two forward passes, for weights and for inputs; a
    first layer needs no gradient of its inputs. Activations, pools, lookups and the optimizer are not counted.

    Args:
        workload: a member of ``WORKLOADS``, or one of the same name with other clients, samples or batch.

    Example:
        >>> [f"{operations(workload) / 1e9:.2f}" for workload in WORKLOADS.values()]
        ['1.88', '277.60', '38.43']
    """
    first, others = _FORWARD[workload.name](workload)
    return workload.clients * workload.samples * (2 * first + 3 * others)


def least_bytes(workload: Workload) -> int:
    """Count the bytes that every round must read or write.

    Every sample is read once, as float32 or int64; the final parameters of every client, float32, are written once and
    read once for the average. Everything else could stay in a cache.

    Args:
        workload: the workload.

    Example:
        >>> [f"{least_bytes(workload) / 1e6:.0f} MB" for workload in WORKLOADS.values()]
        ['194 MB', '203 MB', '923 MB']
    """
    number = 8 if workload.words else 4
    samples = workload.clients * workload.samples * int(np.prod(workload.shape)) * number
    return samples + 2 * workload.clients * workload.parameters * 4
