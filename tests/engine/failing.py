"""A module of defenses that fail, written into the folder of a test: FedAvg, unless they do what their name says."""

MODULE = '''
import os
from pathlib import Path

import torch

from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.errors import UserError
from rflbat.randomness import Draw

HERE = Path(__file__).parent


def _count(name):
    with open(HERE / name, "a") as file:
        file.write("x")
    return (HERE / name).stat().st_size


def _defense(name, act):
    """What goes wrong does so in round 1, behind a checkpoint."""

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        if _count(f"{name}.rounds") == 2 or name == "pinned":
            act()
        return decide(updates, updates.sizes_N, torch.zeros_like(updates.sizes_N))

    return Defense(name, ("kept", "nonfinite"), apply)


def _next_time_too(name):
    _count(f"{name}.failures")
    (HERE / f"{name}.rounds").write_text("x")


def _always():
    _next_time_too("always")
    raise RuntimeError("too bad")


def _once():
    if _count("once.failures") == 1:
        raise RuntimeError("not yet")


def _dies():
    _next_time_too("dies")
    if (HERE / "dies.failures").stat().st_size == 1:
        os.kill(os.getpid(), 9)
    os._exit(7)


def _mistaken():
    _next_time_too("mistaken")
    raise UserError("this cannot be")


def _pinned():
    seen = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    gpus, threads = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.get_num_threads()
    (HERE / f"pinned.{os.getpid()}").write_text(repr((sorted(seen), gpus, threads)))


def always() -> Defense:
    return _defense("always", _always)


def once() -> Defense:
    return _defense("once", _once)


def dies() -> Defense:
    return _defense("dies", _dies)


def mistaken() -> Defense:
    return _defense("mistaken", _mistaken)


def pinned() -> Defense:
    return _defense("pinned", _pinned)
'''
