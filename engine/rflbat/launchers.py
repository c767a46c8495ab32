"""Where the cells of a sweep run: in processes of this machine, or as tasks of a Ray cluster.

A launcher takes work from a queue until it is empty and nothing runs, and yields each piece twice: when it starts, and
with its outcome. Whoever reads may put a piece back into the queue, which then runs again.
"""

import os
import signal
import site
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import torch

from rflbat.clients.allocator import keep_freed_pages
from rflbat.errors import UserError
from rflbat.registry import lookup
from rflbat.simulation import Interrupted


@dataclass(frozen=True)
class Outcome:
    """What became of a piece of work.

    Args:
        summary: what it gave; None where it failed.
        error: the failure in one line.
        details: its traceback, or what is known of a process that died.
        again: whether a second attempt may go better.
    """

    summary: dict[str, Any] | None
    error: str = ""
    details: str = ""
    again: bool = False


Item = TypeVar("Item")
Work = Callable[[Item], Outcome]
Told = Generator[tuple[Item, Outcome | None], None, None]
Launcher = Callable[[deque[Item], Work[Item]], Told[Item]]
LAUNCHERS = ("local", "ray")
PATIENCE = 60.0
"""Seconds that interrupted Ray tasks have for their checkpoints."""


def make_launcher(name: str, jobs: int, gpus_per_cell: float | None, device: str) -> Launcher[Any]:
    """Choose where cells run.

    Args:
        name: ``local`` or ``ray``.
        jobs: processes of ``local``, at least 1.
        gpus_per_cell: share of a GPU that a task of ``ray`` asks for, or a whole number of them; None: 1 on CUDA, 0 on
            the CPU.
        device: ``cpu`` or ``cuda``.

    Returns:
        the launcher.

    Raises:
        UserError: an unknown name, a number out of range, or one that the launcher does not take.

    Example:
        >>> make_launcher("locl", 1, None, "cpu")
        Traceback (most recent call last):
            ...
        rflbat.errors.UserError: unknown launcher 'locl'; did you mean 'local'?; known: local, ray
    """
    lookup("launcher", dict.fromkeys(LAUNCHERS), name)
    if jobs < 1:
        raise UserError(f"jobs={jobs} is out of range; allowed: at least 1")
    if name == "local":
        if gpus_per_cell is not None:
            raise UserError(f"gpus_per_cell={gpus_per_cell} goes with launcher 'ray'; 'local' has jobs")
        return partial(run_local, jobs=jobs, cuda=device == "cuda")
    if jobs != 1:
        raise UserError(f"jobs={jobs} goes with launcher 'local'; 'ray' runs as many cells as the cluster has room for")
    gpus = float(device == "cuda") if gpus_per_cell is None else gpus_per_cell
    if not (0 <= gpus <= 1 or 1 < gpus == int(min(gpus, 1024))):
        raise UserError(f"gpus_per_cell={gpus} is out of range; allowed: 0 to 1, or a whole number up to 1024")
    if device == "cuda" and gpus == 0:
        raise UserError("gpus_per_cell=0 hides every GPU from a cell, but device is 'cuda'; allowed: above 0")
    return partial(run_on_ray, gpus=gpus)


def run_local(todo: deque[Item], work: Work[Item], jobs: int, cuda: bool) -> Told[Item]:
    """Run in this process where jobs is 1; else in processes on one thread each, pinned to their share of the cores.

    On CUDA each process sees one GPU, in turn. A process that dies takes the piece at hand with it, and is replaced.

    Args:
        todo: pieces of work.
        work: what is done with one; it can be pickled where jobs is above 1.
        jobs: processes.
        cuda: whether the work uses CUDA.

    Yields:
        (piece, None) when it starts, (piece, outcome) when it ends.

    Raises:
        Interrupted: Ctrl-C reached a process at work.
    """
    if jobs == 1:
        while todo:
            item = todo.popleft()
            yield item, None
            yield item, work(item)
        return
    places = places_of(jobs, cuda)
    free: list[_Worker | None] = [None] * jobs
    busy: dict[Connection, tuple[_Worker, int, Item]] = {}
    try:
        while todo or busy:
            while todo and len(busy) < jobs:
                at = next(at for at in range(jobs) if all(at != slot for _, slot, _ in busy.values()))
                worker = free[at] = free[at] or _start(places[at])
                item = todo.popleft()
                busy[worker.pipe] = (worker, at, item)
                with suppress(BrokenPipeError):  # it died while it was idle: the end of its pipe says so below
                    worker.pipe.send((work, item))
                yield item, None
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                worker, at, item = busy.pop(pipe)
                try:
                    outcome = pipe.recv()
                except (EOFError, ConnectionError):
                    outcome, free[at] = _died(worker), None
                if isinstance(outcome, Interrupted):
                    raise outcome
                yield item, outcome
    finally:
        for each in free:
            if each is not None:
                each.pipe.close()
        for each in free:
            if each is not None:
                each.process.join()


@dataclass(frozen=True)
class _Worker:
    process: Any
    pipe: Connection


def places_of(jobs: int, cuda: bool) -> list[tuple[set[int], str | None]]:
    """Divide what this process may use.

    Args:
        jobs: number of processes.
        cuda: whether they use CUDA.

    Returns:
        for each process its cores (none where the system pins no process) and the GPU for ``CUDA_VISIBLE_DEVICES``
        (None: as it is). More processes than cores or GPUs share them in turn.

    Example:
        >>> len(places_of(3, cuda=False))
        3
    """
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    gpus: list[str | None] = [None]
    if cuda:
        seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        gpus = [*(seen or map(str, range(torch.cuda.device_count())))] or [None]
    return [(set(cores[at % len(cores) :: jobs]) if cores else set(), gpus[at % len(gpus)]) for at in range(jobs)]


def _start(place: tuple[set[int], str | None]) -> _Worker:
    # spawn: a forked child of a process that has used threads or CUDA may hang.
    context = get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=_serve, args=(its, os.getpid(), *place))
    process.start()
    its.close()
    return _Worker(process, ours)


def _serve(pipe: Connection, parent: int, cores: set[int], gpu: str | None) -> None:
    """Work on what comes through the pipe until it is closed.

    A worker that outlived its sweep would write into the cells of the next one, so it ends with its parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if cores:
        os.sched_setaffinity(0, cores)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    torch.set_num_threads(1)
    keep_freed_pages()
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    while True:
        try:
            work, item = pipe.recv()
        except EOFError:
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            outcome = work(item)
        except Interrupted as stop:
            outcome = stop
        except KeyboardInterrupt:
            outcome = Interrupted(None, 0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with suppress(BrokenPipeError):  # the sweep was interrupted, and no longer listens
            pipe.send(outcome)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    signal.raise_signal(signal.SIGTERM)


def _died(worker: _Worker) -> Outcome:
    worker.process.join()
    worker.pipe.close()
    code = worker.process.exitcode
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
    said = f"its process ended {how}"
    return Outcome(None, said, f"{said}, without a traceback; SIGKILL often means that memory ran out", again=True)


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
                    outcome = Outcome(None, f"{type(error).__name__}: {said.splitlines()[0]}", said, again=True)
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


def _stream(work: Work[Item], item: Item, folder: str) -> Iterator[Outcome | None]:
    """Say that it starts, then work, with relative paths meaning what they mean to the sweep."""
    yield None
    os.chdir(folder)
    torch.set_num_threads(1)
    yield work(item)
