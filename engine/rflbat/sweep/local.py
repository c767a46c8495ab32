"""Run the cells of a sweep in processes on this machine."""

import os
import signal
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import Any

import torch

from rflbat.clients.allocator import keep_freed_pages
from rflbat.simulation.loop import Interrupted
from rflbat.sweep.work import CellOutcome, Item, Told, Work


def run_local(todo: deque[Item], work: Work[Item], jobs: int, cuda: bool) -> Told[Item]:
    """Run all items in this process if ``jobs`` is 1, otherwise in several single-threaded processes.

    Each of several processes is pinned to its share of the cores. On CUDA each process sees one GPU, assigned in turn.
    If a process dies, its current item fails, and a new process takes its place.

    Args:
        todo: queue of items.
        work: function that runs an item; it must be picklable if ``jobs`` is above 1.
        jobs: number of processes.
        cuda: whether the items use CUDA.

    Yields:
        (item, None) when it starts, (item, outcome) when it ends.

    Raises:
        Interrupted: Ctrl-C reached a process that was running an item.
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
                with suppress(BrokenPipeError):  # it died while idle; recv below raises EOFError
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
    """Divide the cores and GPUs of this process among its jobs.

    Args:
        jobs: number of processes.
        cuda: whether they use CUDA.

    Returns:
        for each process its cores (empty if the system cannot pin processes) and the GPU for ``CUDA_VISIBLE_DEVICES``
        (None: unchanged). If there are more processes than cores or GPUs, they share them in turn.

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
    # spawn, because a forked child of a process that has used threads or CUDA may hang.
    context = get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=_serve, args=(its, os.getpid(), *place))
    process.start()
    its.close()
    return _Worker(process, ours)


def _serve(pipe: Connection, parent: int, cores: set[int], gpu: str | None) -> None:
    """Run the items that arrive through the pipe until it is closed.

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
        with suppress(BrokenPipeError):  # the sweep was interrupted and has closed the pipe
            pipe.send(outcome)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    signal.raise_signal(signal.SIGTERM)


def _died(worker: _Worker) -> CellOutcome:
    worker.process.join()
    worker.pipe.close()
    code = worker.process.exitcode
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
    said = f"its process ended {how}"
    return CellOutcome(None, said, f"{said}, without a traceback; SIGKILL often means out of memory", again=True)
