"""One round of local training: 100 MNIST clients, 10 steps of 60, logistic regression.

``python -m benchmarks.speed.local_training`` compares, within one run and interleaved, the back ends of rflbat with a
plain loop of PyTorch modules over tensor slices. It checks first that all of them give the same weights, and prints
the floor beside the figures: the operations at the matrix rate, and the least bytes at the copy rate, that the same
run measures. Results: ``benchmarks/speed/results/local_training.csv``.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rflbat.clients.backend import Backend, choose_backend
from rflbat.clients.batches import Batches, draw_batches
from rflbat.clients.executor import same_start
from rflbat.clients.step import SGD, make_feed
from rflbat.config import Experiment
from rflbat.randomness import generator
from rflbat.round import World
from rflbat.world import build, first_server

RESULTS = Path(__file__).parent / "results" / "local_training.csv"
STEPS, BATCH, LR = 10, 60, 0.1


@dataclass(frozen=True)
class Row:
    """One line of the CSV; seconds are of one round."""

    case: str
    threads: int
    median: float
    p20: float
    p80: float
    share_of_loop: float
    over_floor: float


def plain_loop(world: World, batches: Batches, start_D: Tensor) -> Tensor:
    """What a researcher writes: one torch.nn.Linear and torch.optim.SGD per client, batches as tensor slices."""
    trained = torch.empty(len(world.samples), len(start_D))
    named = world.model.layout.views(start_D)
    for client, index_SB in enumerate(batches.index_NSB):
        model = torch.nn.Linear(784, 10)
        model.load_state_dict(named)
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        for index_B in index_SB:
            optimizer.zero_grad()
            logits = model(world.train_x[index_B].flatten(1))
            torch.nn.functional.cross_entropy(logits, world.train_y[index_B]).backward()
            optimizer.step()
        trained[client] = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return trained


def cases(world: World) -> dict[str, Callable[[], Tensor]]:
    """Every way to train the same round."""
    clients = len(world.samples)
    nobody = np.zeros(clients, bool)
    stream = generator(0, "batches", 0)
    batches = draw_batches(world.samples, nobody, stream, steps=STEPS, batch=BATCH, poisoned_share=0.5)
    group_N = torch.zeros(clients, dtype=torch.int64)
    feed = make_feed(world.train_x, world.train_y, batches, world.attack.local_triggers, group_N, 0)
    start_D, sgd = first_server(world).params_D, SGD(STEPS, LR)

    def trained(backend: Backend) -> Tensor:
        updates_ND = torch.empty(clients, len(start_D))
        backend.train(updates_ND, same_start(start_D), world.model, feed, sgd)
        return updates_ND.add_(start_D)

    def chosen(name: str) -> Backend:
        return choose_backend(name, None, world.model, (1, 28, 28), BATCH, clients, world.device)

    backends = [chosen(name) for name in ("loop", "vmap", "auto")]
    return {
        "plain loop of modules": lambda: plain_loop(world, batches, start_D),
        **{f"rflbat {each.name}": partial(trained, each) for each in backends},
    }


def seconds(action: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def floor(world: World) -> float:
    """The larger of operations at this machine's matrix rate and least bytes at its copy rate."""
    samples = len(world.samples) * STEPS * BATCH
    operations = samples * 2 * (2 * 784 * 10)
    least_bytes = samples * 784 * 4 + 2 * len(world.samples) * world.model.layout.size * 4
    a, b = torch.randn(2048, 2048), torch.empty(2**26)
    rate = 2 * 2048**3 / min(seconds(lambda: a @ a) for _ in range(5))
    copied = torch.ones(2**26)
    bandwidth = 2 * 2**28 / min(seconds(lambda: b.copy_(copied)) for _ in range(5))
    print(
        f"operations {operations / 1e9:.2f} G at {rate / 1e9:.0f} G/s, "
        f"bytes {least_bytes / 1e6:.0f} M at {bandwidth / 1e9:.1f} GB/s"
    )
    return max(operations / rate, least_bytes / bandwidth)


def measure(world: World, repeats: int) -> list[Row]:
    """Check that all cases agree, then time them interleaved."""
    actions = cases(world)
    expected, *others = (action() for action in actions.values())
    for name, found in zip(list(actions)[1:], others, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    limit = floor(world)
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            times[name].append(seconds(action))
    base = statistics.median(times["plain loop of modules"])
    rows = []
    for name, each in times.items():
        p20, median, p80 = np.quantile(each, [0.2, 0.5, 0.8])
        values = (float(median), float(p20), float(p80), float(median / base), float(median / limit))
        rows.append(Row(name, torch.get_num_threads(), *values))
    print(f"floor {limit:.3f} s; all cases give the same weights; {repeats} repeats, interleaved")
    return rows


def main() -> None:
    """Measure with one thread and with two, print, and write the CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.local_training", description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    world = build(Experiment(dataset="mnist", malicious=0.0, local_steps=STEPS, batch_size=BATCH, lr=LR))
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        rows += measure(world, options.repeats)
    for row in rows:
        speed = 1 / row.share_of_loop
        print(
            f"{row.case:36s} {row.threads} thread(s)  median {row.median:.3f} s ({row.p20:.3f} to {row.p80:.3f})"
            f"  {speed:.2f} x the plain loop  {row.over_floor:.1f} x the floor"
        )
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in asdict(row).items()} for row in rows)


if __name__ == "__main__":
    main()
