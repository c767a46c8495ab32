import json
import math

import pytest
import torch

from rflbat.clients import backend
from rflbat.clients.backend import CPU_BUDGET, Backend, choose_backend, chunk_size
from rflbat.errors import UserError
from rflbat.models.logistic import logistic
from rflbat.models.registry import MODELS
from tests.engine.models.inputs import SHAPES, make

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SAMPLE = (1, 28, 28)
MODEL = logistic(SAMPLE, 10)
MEASURED = "fastest measured for this model on this kind of device"
ON_CPU = {"logistic": "vmap", "cnn": "loop", "lstm": "vmap"}


def choose(name, chunk=None, *, batch=60, clients=101):
    return choose_backend(name, chunk, MODEL, SAMPLE, batch, clients, CPU)


def choose_auto(model, chunk, device):
    return choose_backend("auto", chunk, make(model)[0], SHAPES[model], 13, 5, device)


@pytest.fixture
def free(monkeypatch):
    """A device with 2 GB of memory, 1 GB of it free, where there may be none."""
    asked = []

    def mem_get_info(device):
        asked.append(device)
        return 10**9, 2 * 10**9

    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    return asked


@pytest.mark.parametrize("chunk", [1, 3, 7, 101, 5000])
def test_a_chunk_that_was_asked_for_is_kept(chunk):
    assert choose("vmap", chunk) == Backend("vmap", chunk, "asked for")
    assert choose("auto", chunk) == Backend("vmap", chunk, MEASURED)


def test_the_loop_takes_one_client_at_a_time():
    assert choose("loop") == Backend("loop", 1, "asked for")


def test_auto_says_what_it_chose_and_why():
    chosen = choose("auto")
    assert chosen.name in {"vmap", "loop"}
    assert chosen.reason != "asked for"
    assert len(chosen.reason) > 20


@pytest.mark.parametrize("model", MODELS)
def test_auto_takes_on_a_cpu_what_measured_fastest_there(model):
    chosen = choose_auto(model, None, CPU)
    assert chosen.as_dict() == {
        "name": ON_CPU[model],
        "chunk": 1 if ON_CPU[model] == "loop" else 5,
        "reason": MEASURED,
    }


@pytest.mark.parametrize("model", MODELS)
def test_auto_takes_vmap_on_cuda(model, free):
    assert choose_auto(model, None, CUDA).as_dict() == {"name": "vmap", "chunk": 5, "reason": MEASURED}
    assert free == [CUDA]


@pytest.mark.parametrize("model", MODELS)
def test_auto_takes_vmap_where_a_chunk_was_asked_for(model, free):
    for device in (CPU, CUDA):
        chosen = choose_auto(model, 3, device)
        assert (chosen.name, chosen.chunk) == ("vmap", 3)
        # Nobody measured vmap fastest where the loop is.
        assert (chosen.reason == MEASURED) == (device == CUDA or ON_CPU[model] == "vmap")
    assert free == []


def test_a_chunk_takes_a_quarter_of_the_free_memory_of_a_device(free):
    needed = 4 * (2 * 60 * math.prod(SAMPLE) + 3 * MODEL.layout.size)
    assert chunk_size(MODEL, SAMPLE, 60, 10**9, CUDA) == 10**9 // 4 // needed


def test_the_choice_can_be_stored():
    assert json.loads(json.dumps(choose("vmap", 7).as_dict())) == {"name": "vmap", "chunk": 7, "reason": "asked for"}


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError) as caught:
        choose("vmapp")
    assert str(caught.value) == "unknown back end 'vmapp'; did you mean 'vmap'?; known: auto, vmap, loop"


@pytest.mark.parametrize("batch", [1, 60, 601, 10**6])
def test_a_chunk_stays_within_its_memory(batch):
    chunk = chunk_size(MODEL, SAMPLE, batch, 10**9, CPU)
    needed = 4 * (2 * batch * math.prod(SAMPLE) + 3 * MODEL.layout.size)
    if chunk == 1:
        assert 2 * needed > CPU_BUDGET
    else:
        assert chunk * needed <= CPU_BUDGET < (chunk + 1) * needed


@pytest.mark.parametrize("clients", [1, 3, 101])
def test_a_chunk_is_no_larger_than_the_round(clients):
    assert chunk_size(MODEL, SAMPLE, 60, clients, CPU) == clients


def test_one_client_goes_even_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(backend, "CPU_BUDGET", 1)
    assert chunk_size(MODEL, SAMPLE, 60, 101, CPU) == 1
