"""How a round's training is cut into chunks: memory that runs out, workers, and what is written.

Legend of the suffixes: N clients, D parameters, n clients of a chunk.
"""

import logging
import os
import re
import subprocess
import sys
import threading

import pytest
import torch

from rflbat.clients import executor
from rflbat.clients.allocator import SETTINGS
from rflbat.clients.optimizer import Optimizer
from rflbat.parameters import Layout

LAYOUT = Layout({"weight": (2, 2), "bias": (3,)})
N, OPTIMIZER = 11, Optimizer(3, 0.5, 0.9, 0.1)
START_ND = torch.randn(N, LAYOUT.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def batch_source(rows, step):
    clients = torch.arange(N)[rows]
    return (clients + 10.0 * step)[:, None, None], clients[:, None], torch.ones(len(clients), 1)


def gradient(named, x_nB, labels_nB, weight_nB):
    """Depends on the parameters, the client and the step."""
    return {name: value.sin() + each(x_nB, value) for name, value in named.items()}


def each(x_nB, like):
    return x_nB.flatten(1).mean(1).view(-1, *[1] * (like.ndim - 1))


def run(chunk, workers=1, gradient=gradient, start_ND=START_ND):
    updates_ND = torch.full_like(start_ND, torch.nan)
    smallest = executor.train(
        updates_ND, lambda rows: start_ND[rows], LAYOUT, gradient, batch_source, OPTIMIZER, chunk=chunk, workers=workers
    )
    return updates_ND, smallest


WANTED_ND, _ = run(1)


def limited(most, error):
    """A gradient that runs out of memory above a number of clients, from the second step on."""

    def of_chunk(named, x_nB, labels_nB, weight_nB):
        if len(x_nB) > most and x_nB.flatten()[0] >= 10:
            raise error
        return gradient(named, x_nB, labels_nB, weight_nB)

    return of_chunk


OUT_OF_MEMORY = {
    "device": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"),
    "host": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    "python": MemoryError(),
}


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 11, 100])
def test_neither_chunk_nor_workers_change_an_update(chunk, workers):
    updates_ND, smallest = run(chunk, workers)
    assert torch.equal(updates_ND, WANTED_ND)
    assert smallest == chunk


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_chunk_that_does_not_fit_is_halved_and_changes_nothing(kind, workers, caplog):
    with caplog.at_level(logging.WARNING):
        updates_ND, smallest = run(11, workers, limited(3, OUT_OF_MEMORY[kind]))
    assert torch.equal(updates_ND, WANTED_ND)
    assert smallest == 2  # 11 -> 5 + 6 -> 2 + 3 + 3 + 3
    assert "out of memory with a chunk of 11 clients" in caplog.text


def test_a_last_chunk_of_fewer_clients_is_no_shortage_of_memory():
    assert run(5, gradient=limited(4, MemoryError()))[1] == 2  # 5 -> 2 + 3, twice; then 1
    assert run(5, gradient=limited(1, MemoryError()))[1] == 1


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_one_client_that_does_not_fit_is_an_error_of_its_own(kind):
    with pytest.raises(executor.ClientDoesNotFit, match=f"^{re.escape(str(OUT_OF_MEMORY[kind]))}$"):
        run(4, gradient=limited(0, OUT_OF_MEMORY[kind]))


def test_another_failure_is_no_shortage_of_memory():
    with pytest.raises(RuntimeError, match=r"^clients 8 to 10 of the round, step 1, batch \(1, 1\), .*: bad shapes"):
        run(4, gradient=failing_for(8, RuntimeError("bad shapes")))


def failing_for(client, error):
    def of_chunk(named, x_nB, labels_nB, weight_nB):
        if int(labels_nB[0, 0]) == client and x_nB.flatten()[0] >= 10:
            raise error
        return gradient(named, x_nB, labels_nB, weight_nB)

    return of_chunk


def test_the_start_is_not_written_to():
    before_ND = START_ND.clone()
    run(4)
    assert torch.equal(START_ND, before_ND)


def test_the_same_start_for_all_takes_no_memory():
    params_D = torch.arange(7.0)
    start_nD = executor.same_start(params_D)(slice(2, 6))
    assert start_nD.shape == (4, 7)
    assert start_nD.data_ptr() == params_D.data_ptr()


def test_workers_run_kernels_of_one_thread_and_leave_the_setting_alone():
    before, seen = torch.get_num_threads(), set()

    def spy(named, *batch):
        seen.add((threading.current_thread().name, torch.get_num_threads()))
        return gradient(named, *batch)

    try:
        torch.set_num_threads(2)
        run(1, 2, spy)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert {threads for _, threads in seen} == {1}
    assert all(name.startswith("rflbat-train") for name, _ in seen)


def test_no_gradient_is_recorded_in_a_worker():
    def spy(named, *batch):
        assert not torch.is_grad_enabled()
        return gradient(named, *batch)

    run(2, 2, spy)


RESIDENT = """
import resource, sys
import torch
import rflbat.simulation.loop  # as in a process that trains
from rflbat.clients.allocator import keep_freed_pages

if sys.argv[1] == "kept":
    print(keep_freed_pages())
def step():
    held = [torch.ones(size * 2**18) for size in (8, 12, 20, 24)]
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_what_a_step_freed_is_taken_again_without_page_faults():
    def run(word, **variables):
        inherited = {name: value for name, value in os.environ.items() if name not in SETTINGS}
        environment = {**inherited, "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", **variables}
        command = [sys.executable, "-c", RESIDENT, word]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    told, kept_faults = run("kept")
    assert told == "True"
    # By chance a small block stays at the top of the heap, and nothing is returned by default either.
    assert any(int(kept_faults) * 10 < int(run("default")[0]) for _ in range(5))
    assert run("kept", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"


UNTOUCHED = """
import ctypes, sys
import rflbat, rflbat.clients.allocator
asked = []
rflbat.clients.allocator.ctypes = type("C", (), {"CDLL": lambda name: asked.append(name)})
if sys.argv[1] == "library":
    rflbat.run(rflbat.Experiment(clients=3, rounds=1, local_steps=1))
else:
    import rflbat.cli.main
    sys.argv = ["rflbat", "list", "models"]
    rflbat.cli.main.main()
print(len(asked))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_the_command_sets_the_policy_of_its_process_and_the_library_does_not():
    inherited = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    for word, times in (("library", "0"), ("command", "1")):
        command = [sys.executable, "-c", UNTOUCHED, word]
        environment = {**inherited, "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split()[-1] == times
