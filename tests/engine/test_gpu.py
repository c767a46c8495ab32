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
from rflbat.round.draws import draw_round
from rflbat.round.records import download
from rflbat.round.round import run_drawn_round, run_round
from rflbat.round.setup import initial_state
from tests.engine.federations import CLIENTS, back_ends, is_row_sparse, pairs, small_federation

MADE = {name: make_defense(name, {}) for name in DEFENSES}
DEFENDED = [name for name, made in MADE.items() if made.pretrain is None and not made.waits]
"""The one that learns beforehand has its own test without a device; others declare that they wait."""


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
    federation = small_federation(model, attack, backend=Backend(backend, 5, 1, ""), **settings)
    return (
        replace(federation, host_texts=(federation.train_x.cpu(), federation.train_y.cpu()))
        if is_row_sparse(federation)
        else federation
    )


def last_round(federation):
    """The last round is evaluated."""
    return replace(initial_state(federation), round_number=federation.experiment.rounds - 1)


def drawn(federation, server):
    uniforms = federation.defense.num_uniforms(CLIENTS, len(server.params_D))
    share = federation.attack.poison_fraction
    return draw_round(federation.experiment, server.round_number, federation.client_indices, share, uniforms).to(
        federation.device
    )


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


def check_without_a_wait(federation):
    server = last_round(federation)
    run_round(federation, server)  # handles and workspaces are made on first use
    with waits_raise(federation.device.type):
        after, outcome = run_round(federation, server)
    # An untargeted attack has no success rate.
    measures = download(outcome).measures
    assert measures.isfinite().all() or (federation.attack.success == "untargeted" and measures[0].isfinite())
    assert after.params_D.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("defense", ["fedavg", "rflbat", "foolsgold", "krum", "median"])
def test_a_round_takes_one_copy_up_and_one_down(defense, device):
    federation = world_on(device, "logistic", "pixel", "analytic", defense, "rfa")
    server = last_round(federation)
    download(run_round(federation, server)[1])
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as seen:
        download(run_round(federation, server)[1])
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
    federation = world_on(device, model, "pixel", backend, defense)
    server = last_round(federation)
    draws = drawn(federation, server)
    other_D = server.params_D + 0.25
    wanted, seen = run_drawn_round(federation, replace(server, params_D=other_D), draws)
    wanted_D, kept = wanted.params_D.clone(), seen.decision.kept.clone()

    graph = torch.cuda.CUDAGraph() if device == "cuda" else None
    if device == "cuda":
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run_drawn_round(federation, server, draws)
        torch.cuda.current_stream().wait_stream(stream)
    with captured(device, graph):
        after, outcome = run_drawn_round(federation, server, draws)
    server.params_D.copy_(other_D)
    if graph is None:
        after, outcome = run_drawn_round(federation, server, draws)
    else:
        graph.replay()
    torch.testing.assert_close(after.params_D, wanted_D, rtol=1e-4, atol=1e-5)
    assert torch.equal(outcome.decision.kept, kept)
