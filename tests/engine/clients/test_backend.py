import dataclasses
import json

import pytest
import torch

from rflbat.clients import backend
from rflbat.clients.backend import (
    CACHE_BUDGET,
    CPU_BUDGET,
    DECLARED,
    UNMEASURED,
    Backend,
    choose_backend,
    chunk_size,
)
from rflbat.clients.memory import bytes_per_client
from rflbat.errors import UserError
from rflbat.models.base import Model
from rflbat.models.logistic import logistic
from rflbat.models.registry import MODELS
from rflbat.parameters import Layout
from rflbat.testing.model_battery import made, samples_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SAMPLE = torch.empty(1, 28, 28, device="meta")
MODEL = logistic((1, 28, 28), 10)
ON_CPU = {name: made(name)[0].cpu_backend for name in MODELS}
ON_CUDA = {name: "vmap" if made(name)[0].gradient is None else "analytic" for name in MODELS}


def choose(name, chunk=None, *, batch=60, clients=101):
    return choose_backend(name, chunk, MODEL, SAMPLE, batch, clients, CPU)


def choose_auto(model, chunk, device):
    return choose_backend("auto", chunk, made(model)[0], samples_of(model).to("meta"), 13, 5, device)


@pytest.fixture
def free(monkeypatch):
    """A device with 2 GB of memory, 1 GB of it free, where there may be none."""
    asked = []

    def mem_get_info(device):
        asked.append(device)
        return 10**9, 2 * 10**9

    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    return asked


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("chunk", "workers"), [(1, 2), (3, 2), (7, 2), (101, 1), (5000, 1)])
def test_a_chunk_that_was_asked_for_is_kept(chunk, workers, two_threads):
    assert choose("vmap", chunk) == Backend("vmap", chunk, workers, "asked for")
    assert choose("auto", chunk) == Backend("analytic", chunk, workers, DECLARED)


def test_the_loop_takes_one_client_at_a_time_on_each_thread(two_threads):
    assert choose("loop") == Backend("loop", 1, 2, "asked for")
    assert choose("loop", clients=1) == Backend("loop", 1, 1, "asked for")


@pytest.mark.parametrize("model", MODELS)
def test_auto_takes_on_a_cpu_what_the_model_declares(model):
    chosen = choose_auto(model, None, CPU)
    assert (chosen.name, chosen.reason) == (ON_CPU[model], DECLARED)
    assert chosen.chunk == (1 if ON_CPU[model] == "loop" else 5)


@pytest.mark.parametrize("model", MODELS)
def test_auto_takes_all_clients_at_once_on_cuda(model, free):
    # A client of the full ResNet-18 takes all of the memory that is free here.
    chunk = 1 if model == "resnet" else 5
    assert choose_auto(model, None, CUDA) == Backend(ON_CUDA[model], chunk, 1, UNMEASURED)
    assert free == [CUDA]


@pytest.mark.parametrize("model", MODELS)
def test_auto_takes_no_loop_where_a_chunk_was_asked_for(model, free):
    for device in (CPU, CUDA):
        chosen = choose_auto(model, 3, device)
        assert (chosen.name, chosen.chunk) == (ON_CUDA[model], 3)
        # The models of the loop do not declare vmap.
        assert (chosen.reason == DECLARED) == (device == CPU and ON_CPU[model] != "loop")
    assert free == []


def test_a_chunk_takes_a_quarter_of_the_free_memory_of_a_device(free):
    assert chunk_size(MODEL, SAMPLE, 60, 10**9, CUDA) == 10**9 // 4 // bytes_per_client(MODEL, SAMPLE, 60)


def test_the_choice_can_be_stored(two_threads):
    stored = {"name": "vmap", "chunk": 7, "workers": 2, "reason": "asked for"}
    assert json.loads(json.dumps(dataclasses.asdict(choose("vmap", 7)))) == stored


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError) as caught:
        choose("vmapp")
    assert str(caught.value) == "unknown back end 'vmapp'; did you mean 'vmap'?; known: auto, vmap, loop, analytic"


@pytest.mark.parametrize("model", [name for name in MODELS if ON_CUDA[name] != "analytic"])
def test_a_gradient_that_nobody_wrote_is_refused(model):
    with pytest.raises(UserError, match=f"model '{model}' has none"):
        choose_backend("analytic", None, made(model)[0], samples_of(model).to("meta"), 13, 5, CPU)


@pytest.mark.parametrize("batch", [1, 60, 601, 10**6])
@pytest.mark.parametrize("name", ["vmap", "analytic"])
def test_a_chunk_stays_within_its_memory(batch, name):
    chunk = chunk_size(MODEL, SAMPLE, batch, 10**9, CPU, name)
    needed = {"vmap": bytes_per_client(MODEL, SAMPLE, batch), "analytic": batch * SAMPLE.nbytes}[name]
    budget = {"vmap": CPU_BUDGET, "analytic": CACHE_BUDGET}[name]
    if chunk == 1:
        assert 2 * needed > budget
    else:
        assert chunk * needed <= budget < (chunk + 1) * needed


@pytest.mark.parametrize("clients", [1, 3, 101])
def test_a_chunk_is_no_larger_than_the_round(clients):
    assert chunk_size(MODEL, SAMPLE, 60, clients, CPU) == clients


def test_one_client_goes_even_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(backend, "CPU_BUDGET", 1)
    assert chunk_size(MODEL, SAMPLE, 60, 101, CPU) == 1


def words(p_drop: float = 0.0) -> Model:
    """A text model that names no table, as another package may write it: the mean of its words, and a layer."""

    def apply(parameters, x):
        mean = torch.nn.functional.embedding(x, parameters["words"]).mean(1)
        return torch.nn.functional.dropout(mean, p_drop) @ parameters["out"]

    layout = Layout({"words": (23, 6), "out": (6, 4)})
    return Model("words", layout, lambda stream: torch.zeros(layout.size), apply)


@pytest.mark.parametrize("name", ["auto", "vmap", "loop"])
def test_a_text_model_needs_no_table(name):
    sample = torch.empty(9, dtype=torch.int64, device="meta")
    assert choose_backend(name, None, words(), sample, 13, 5, CPU).name in ("vmap", "loop")


@pytest.mark.parametrize("name", ["auto", "vmap", "loop"])
def test_a_model_that_draws_is_refused(name):
    sample = torch.empty(9, dtype=torch.int64, device="meta")
    with pytest.raises(UserError, match=r"model 'words' cannot be trained: it draws random numbers \(aten") as caught:
        choose_backend(name, None, words(0.5), sample, 13, 5, CPU)
    assert "\n" not in str(caught.value)
