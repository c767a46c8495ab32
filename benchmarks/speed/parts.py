"""The parts of a round, each timed alone on one thread: ``python -m benchmarks.speed.parts``.

Each part runs on data of the size that it has in a round of the case; the result is the median of several repetitions.
The parts show where the time of a case is spent, and how much of it no change of rflbat could save.
Axes: N clients, B batch, F features, C classes, D parameters.
"""

import csv
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.speed.table import PARTS
from benchmarks.speed.workloads import WORKLOADS, make_updates
from rflbat.models.recurrence import last_state
from rflbat_kernels import distances_to_sum, finite_rows, gram, pca, weighted_sum
from rflbat_kernels.operations import kmeans

COLUMNS = ("case", "part", "seconds")
CHUNK = 11
"""Clients at a time: the engine's chunk for W1."""
Part = tuple[str, Callable[[], object]]


def each(turns: Iterable[int], action: Callable[[int], object]) -> Callable[[], None]:
    """Return a function that runs all turns and discards results: kept ones need fresh pages, which cost the most.

    Args:
        turns: arguments of the calls.
        action: one turn.

    Example:
        >>> each(range(2), print)()
        0
        1
    """

    def all_turns() -> None:
        for turn in turns:
            action(turn)

    return all_turns


def of_logistic() -> Iterator[Part]:
    """Gather and multiply as in a round of W1, and copy the same number of bytes in order."""
    workload = WORKLOADS["W1"]
    rows, features = workload.clients * workload.samples, workload.shape[0]
    x, order = torch.randn(rows, features), torch.randperm(rows)
    batch = CHUNK * workload.batch
    room_BF = torch.empty(batch, features)
    x_nBF = room_BF.view(CHUNK, workload.batch, features)
    weight_nCF = torch.randn(CHUNK, workload.classes, features)
    error_nCB = torch.randn(CHUNK, workload.classes, workload.batch)
    turns = range(0, rows - batch + 1, batch)
    yield "samples copied in order", each(turns, lambda at: room_BF.copy_(x[at : at + batch]))
    yield "samples gathered", each(turns, lambda at: torch.index_select(x, 0, order[at : at + batch], out=room_BF))
    yield "logits, batched product", each(turns, lambda at: torch.bmm(weight_nCF, x_nBF.mT))
    yield "gradient, batched product", each(turns, lambda at: torch.bmm(error_nCB, x_nBF))


def of_lstm() -> Iterator[Part]:
    """Run the recurrent layer alone as often as in a round of W3, and products of the same number of operations."""
    workload, units = WORKLOADS["W3"], 100
    calls = range(workload.clients * workload.steps)
    x_TBE = torch.randn(workload.shape[0], workload.batch, units, requires_grad=True)
    shapes = ((4 * units, units), (4 * units, units), (4 * units,), (4 * units,))
    weights = [(0.1 * torch.randn(shape)).requires_grad_() for shape in shapes]
    inputs_ME, gates_MG = x_TBE.detach().flatten(0, 1), torch.randn(workload.batch * workload.shape[0], 4 * units)
    plain = weights[0].detach()

    def products(_: int) -> None:
        for _ in range(2):  # of the inputs and of the states: forward, and backward for either factor
            _ = inputs_ME @ plain.T, gates_MG @ plain, gates_MG.T @ inputs_ME

    def both(_: int) -> None:
        torch.autograd.grad(last_state(x_TBE, *weights).sum(), [x_TBE, *weights])

    yield "LSTM, forward", each(calls, lambda _: last_state(x_TBE, *weights))
    yield "LSTM, forward and backward", each(calls, both)
    yield "products of its operations", each(calls, products)


def of_defense(clients: int, parameters: int) -> Iterator[Part]:
    """Run the steps of RFLBAT one by one."""
    matrix_ND = torch.from_numpy(make_updates(clients, parameters))
    weights_N = torch.full((clients,), 1 / clients, dtype=torch.float64)
    anchored_NN = gram(matrix_ND).anchored_NN
    points_MNH = pca(anchored_NN)[None]
    counts = tuple(range(2, 11))
    uniforms = torch.from_numpy(np.random.default_rng(0).random((1, len(counts), 10, counts[-1])))
    yield "finite rows", lambda: finite_rows(matrix_ND)
    yield "Gram matrix, float64", lambda: gram(matrix_ND)
    for kind in (np.float64, np.float32):
        yield f"its products alone, {np.dtype(kind)}", symmetric_products(clients, parameters, kind)
    yield "principal components", lambda: pca(anchored_NN)
    yield "k-means, 2 to 10 clusters, 10 starts", lambda: kmeans(points_MNH, counts, uniforms)
    yield "weighted sum, float64", lambda: weighted_sum(weights_N, matrix_ND)


def symmetric_products(clients: int, parameters: int, kind: type[np.floating]) -> Callable[[], None]:
    """Multiply a block of columns that fits the cache with itself, as often as the matrix has such blocks.

    Args:
        clients: N.
        parameters: D.
        kind: float type.

    Example:
        >>> symmetric_products(2, 10, np.float64)()
    """
    width = min(parameters, 2**19 // clients)
    block, out = np.ones((clients, width), kind), np.empty((clients, clients), kind)
    return each(range(-(-parameters // width)), lambda _: np.matmul(block, block.T, out=out))


def of_many(clients: int, parameters: int) -> Iterator[Part]:
    """Time the Gram matrix of many updates, and one pass of a geometric median, which can replace it."""
    matrix_ND = torch.from_numpy(make_updates(clients, parameters))
    weights_N = torch.full((clients,), 1 / clients, dtype=torch.float64)
    yield "Gram matrix, float64", lambda: gram(matrix_ND)
    yield "one pass of distances, float64", lambda: distances_to_sum(weights_N, matrix_ND)


def median_seconds(action: Callable[[], object], repeats: int) -> float:
    """Run an action once, then return the median seconds of further calls.

    Args:
        action: the timed function.
        repeats: at least 1.

    Example:
        >>> 0.0 <= median_seconds(lambda: None, 3) < 1.0
        True
    """
    action()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measured(repeats: int) -> Iterator[tuple[str, str, str]]:
    """Measure every part.

    Args:
        repeats: repetitions of each part.
    """
    groups = {
        "W1": of_logistic(),
        "W3": of_lstm(),
        **{f"W4-rflbat-{n}x{d}": of_defense(n, d) for n, d in ((100, 7_850), (100, 220_000))},
        "1,600 x 100,000": of_many(1_600, 100_000),
    }
    for case, parts in groups.items():
        for part, action in parts:
            yield case, part, f"{median_seconds(action, repeats):.4g}"


def main(out: Path, repeats: int = 7) -> None:
    """Measure, and write the file.

    Args:
        out: folder of the results.
        repeats: repetitions of each part.
    """
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(1), (out / PARTS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(measured(repeats))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results")
