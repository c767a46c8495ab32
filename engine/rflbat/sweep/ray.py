"""Cells of a sweep as tasks of a Ray cluster."""

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
"""Seconds that interrupted Ray tasks have for their checkpoints."""


def run_on_ray(todo: deque[Item], work: Work[Item], gpus: float) -> Told[Item]:
    """Run each piece as a Ray task of one core and a share of GPUs.

    The cluster is the one at hand if Ray is started here, that of ``RAY_ADDRESS``, or this machine alone. Its machines
    need this package and see the same files under the same paths.

    Args:
        todo: pieces of work.
        work: what is done with one; it can be pickled.
        gpus: GPUs of a task.

    Yields:
        (piece, None) when it starts, (piece, outcome) when it ends.

    Raises:
        UserError: Ray is not installed or not to be reached, or this machine alone cannot hold a single task.
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
            ray.cancel(stream, force=False)  # as Ctrl-C: what runs writes its checkpoint
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
            raise UserError(f"RAY_ADDRESS={address}: no Ray cluster answers there: {error}") from error
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    there = ray.cluster_resources().get("GPU", 0)
    if there < gpus:  # nobody adds machines to this one, so its tasks would wait for ever
        ray.shutdown()
        raise UserError(f"gpus_per_cell={gpus:g}, but Ray sees {there:g} GPUs here; RAY_ADDRESS names a cluster")


def _environment() -> dict[str, str]:
    """Where a task finds modules beside installed packages, and data."""
    installed = (sys.prefix, sys.base_prefix, *site.getsitepackages(), site.getusersitepackages())
    paths = [str(Path(path).resolve()) for path in sys.path if not (path and path.startswith(installed))]
    found = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
    if "RFLBAT_DATA_DIR" in os.environ:
        found["RFLBAT_DATA_DIR"] = os.environ["RFLBAT_DATA_DIR"]
    return found


def _stream(work: Work[Item], item: Item, folder: str) -> Iterator[CellOutcome | None]:
    """Say that it starts, then work, with relative paths meaning what they mean to the sweep."""
    yield None
    os.chdir(folder)
    torch.set_num_threads(1)
    yield work(item)
