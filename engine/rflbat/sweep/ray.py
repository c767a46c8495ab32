"""Run the cells of a sweep as tasks of a Ray cluster."""

import os
import site
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from rflbat.errors import UserError
from rflbat.simulation.loop import Interrupted
from rflbat.sweep.work import CellOutcome, Item, Told, Work

PATIENCE = 60.0
"""Seconds that interrupted Ray tasks have to write their checkpoints."""


def run_on_ray(todo: deque[Item], work: Work[Item], gpus: float) -> Told[Item]:
    """Run each item as a Ray task with one core and a number of GPUs.

    The cluster is the one that this process is connected to, else that of ``RAY_ADDRESS``, else this machine alone. Its
    machines need this package and the same files under the same paths.

    Args:
        todo: queue of items.
        work: function that runs an item; it must be picklable.
        gpus: GPUs of a task.

    Yields:
        (item, None) when it starts, (item, outcome) when it ends.

    Raises:
        UserError: Ray is not installed or cannot be reached, or this machine alone has too few GPUs for a single task.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError(f"launcher 'ray' needs the package ray ({error}): pip install 'rflbat[ray]'") from None
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, gpus)
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0, num_returns="streaming")(_stream)
    task = task.options(runtime_env={"env_vars": _environment()})
    busy: dict[Any, Item] = {}
    try:
        while todo or busy:
            while todo:
                item = todo.popleft()
                busy[task.remote(work, item, os.getcwd())] = item
            for stream in ray.wait(list(busy), num_returns=1, fetch_local=False)[0]:
                try:
                    outcome = ray.get(next(stream))
                except ray.exceptions.RayError as error:
                    said = str(error).strip()
                    outcome = CellOutcome(None, f"{type(error).__name__}: {said.splitlines()[0]}", said, again=True)
                item = busy[stream] if outcome is None else busy.pop(stream)
                yield item, outcome
    finally:
        for stream in busy:
            ray.cancel(stream, force=False)  # acts as Ctrl-C, so that running cells write their checkpoints
        deadline = time.monotonic() + PATIENCE
        while busy and time.monotonic() < deadline:
            for stream in ray.wait(list(busy), num_returns=1, timeout=1, fetch_local=False)[0]:
                try:
                    ray.get(next(stream))
                except (ray.exceptions.RayError, Interrupted, StopIteration):
                    del busy[stream]
        if ours:
            ray.shutdown()


def _connect(ray: Any, gpus: float) -> None:
    address = os.environ.get("RAY_ADDRESS")
    if address:
        try:
            ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"RAY_ADDRESS={address}: no Ray cluster responds at this address: {error}") from error
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    there = ray.cluster_resources().get("GPU", 0)
    if there < gpus:  # a local cluster never grows, so its tasks would wait forever
        ray.shutdown()
        raise UserError(f"gpus_per_cell={gpus:g}, but Ray finds {there:g} GPUs; RAY_ADDRESS can name a larger cluster")


def _environment() -> dict[str, str]:
    """Return the environment of a task: search paths of modules that are not installed, and the data folder."""
    installed = (sys.prefix, sys.base_prefix, *site.getsitepackages(), site.getusersitepackages())
    paths = [str(Path(path).resolve()) for path in sys.path if not (path and path.startswith(installed))]
    found = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
    if "RFLBAT_DATA_DIR" in os.environ:
        found["RFLBAT_DATA_DIR"] = os.environ["RFLBAT_DATA_DIR"]
    return found


def _stream(work: Work[Item], item: Item, folder: str) -> Iterator[CellOutcome | None]:
    """Yield None at the start, then the outcome. Relative paths are resolved as in the sweep's own process."""
    yield None
    os.chdir(folder)
    torch.set_num_threads(1)
    yield work(item)
