"""Whole rounds on a real device: CUDA itself watches for waits, copies are counted, a round is captured as a graph.

Axes: D parameters.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from rflbat.clients.backend import Backend
from rflbat.defenses.registry import DEFENSES, make_defense
from rflbat.plan import draw_plan
from rflbat.records import download
from rflbat.round import play, run_round
from rflbat.world import first_server
from tests.engine.worlds import CLIENTS, back_ends, pairs, small_world, words_of

DEFENDED = [name for name in DEFENSES if make_defense(name, {}).pretrain is None]
"""The one that learns beforehand has its own test without a device."""


@contextmanager
def waits_raise(device: str) -> Iterator[None]:
    if device == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def world_on(device, model, attack, backend, defense="rflbat", shadow=""):
    settings = {"defense": defense, "shadow": shadow, "device": device, "tested": 101}
    world = small_world(model, attack, backend=Backend(backend, 5, 1, ""), **settings)
    return replace(world, texts=(world.train_x.cpu(), world.train_y.cpu())) if words_of(model) else world


def last_round(world):
    """The last round is evaluated."""
    return replace(first_server(world), round_number=world.experiment.rounds - 1)


def drawn(world, server):
    uniforms = world.defense.uniforms(CLIENTS, len(server.params_D))
    share = world.attack.poisoned_share
    return draw_plan(world.experiment, server.round_number, world.samples, share, uniforms).to(world.device)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
"""On the host too, so that nothing but the device itself is new where there is one."""
TRAININGS = [(model, attack, name) for model, attack in pairs() for name in back_ends(model)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("model", "attack", "backend"), TRAININGS)
def test_a_round_of_every_model_and_attack_does_not_wait(model, attack, backend, device):
    check_without_a_wait(world_on(device, model, attack, backend, shadow="krum"))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("defense", DEFENDED)
def test_a_round_under_every_defense_does_not_wait(defense, device):
    check_without_a_wait(world_on(device, "logistic", "pixel", "analytic", defense))


def check_without_a_wait(world):
    server = last_round(world)
    run_round(world, server)  # handles and workspaces are made on first use
    with waits_raise(world.device.type):
        after, outcome = run_round(world, server)
    assert download(outcome).measures.isfinite().all()
    assert after.params_D.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("defense", ["fedavg", "rflbat", "foolsgold", "krum", "median"])
def test_a_round_takes_one_copy_up_and_one_down(defense, device):
    world = world_on(device, "logistic", "pixel", "analytic", defense, "rfa")
    server = last_round(world)
    download(run_round(world, server)[1])
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as seen:
        download(run_round(world, server)[1])
    names = [event.name for event in seen.events()]
    copies = 1 if device == "cuda" else 0
    assert sum("Memcpy HtoD" in name for name in names) == copies
    assert sum("Memcpy DtoH" in name for name in names) == copies


@contextmanager
def captured(device: str, graph: object) -> Iterator[None]:
    if device == "cpu":
        yield
        return
    with torch.cuda.graph(graph):
        yield


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("defense", ["fedavg", "rflbat", "foolsgold", "krum", "multikrum", "rfa", "norm_clipping"])
@pytest.mark.parametrize(("model", "backend"), [("logistic", "analytic"), ("logistic", "vmap"), ("cnn", "vmap")])
def test_a_round_is_captured_as_a_graph(model, backend, defense, device):
    """Batch, poison, train, tamper, defend, apply, measure: replayed from another start they give what play gives."""
    world = world_on(device, model, "pixel", backend, defense)
    server = last_round(world)
    plan = drawn(world, server)
    other_D = server.params_D + 0.25
    wanted, seen = play(world, replace(server, params_D=other_D), plan)
    wanted_D, kept = wanted.params_D.clone(), seen.decision.kept.clone()

    graph = torch.cuda.CUDAGraph() if device == "cuda" else None
    if device == "cuda":
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                play(world, server, plan)
        torch.cuda.current_stream().wait_stream(stream)
    with captured(device, graph):
        after, outcome = play(world, server, plan)
    server.params_D.copy_(other_D)
    if graph is None:
        after, outcome = play(world, server, plan)
    else:
        graph.replay()
    torch.testing.assert_close(after.params_D, wanted_D, rtol=1e-4, atol=1e-5)
    assert torch.equal(outcome.decision.kept, kept)
