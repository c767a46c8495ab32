"""The server as a checkpoint in a run folder, and back."""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rflbat.defenses.base import restore_state, state_tensors
from rflbat.errors import UserError
from rflbat.results import checkpoint
from rflbat.results.folder import RunFolder
from rflbat.round import Server, World
from rflbat.world import blank_server


def save(folder: RunFolder, config: Mapping[str, Any], world: World, server: Server, seconds: float) -> None:
    """Write a checkpoint, and keep the one before it.

    Args:
        folder: the run folder; its lines reach the disk first.
        config: the configuration as run.json holds it.
        world: names the defenses.
        server: what is stored.
        seconds: time spent on the rounds so far.

    Raises:
        OSError: the disk is full, or the folder is gone or not writable; the old checkpoint is then untouched.
    """
    folder.sync()
    memories = _memories(world, server)
    state = {f"{prefix}{name}": t for prefix, memory in memories for name, t in state_tensors(memory).items()}
    meta = {"round": server.round_number, "seconds": seconds, "config": config}
    checkpoint.save(folder.checkpoint, {"params_D": server.params_D, **state}, meta, folder.previous)


def restore(world: World, folder: RunFolder, path: Path) -> tuple[Server, float]:
    """Read a server back.

    Args:
        world: what no round changes.
        folder: the run folder.
        path: its latest checkpoint.

    Returns:
        the server, and the seconds spent so far.

    Raises:
        UserError: the checkpoint is damaged or of another run; the message names the last good one, if there is one.
    """
    try:
        return _read(world, folder, path)
    except UserError as error:
        raise UserError(f"{error}; {_way_on(world, folder, path)}") from error


def last_round(folder: RunFolder) -> int | None:
    """Say from which round a run can go on, None where it has no readable checkpoint.

    Args:
        folder: the run folder.

    Returns:
        the next round of the latest checkpoint.
    """
    for path in (folder.checkpoint, folder.previous):
        try:
            _, meta = checkpoint.load(path)
        except UserError:
            continue
        return meta.get("round")
    return None


def _read(world: World, folder: RunFolder, path: Path) -> tuple[Server, float]:
    tensors, meta = checkpoint.load(path)
    if meta.get("config") != folder.run()["config"]:
        raise UserError(f"{path}: this checkpoint is of a run with other settings than run.json says")
    number, seconds = meta.get("round"), meta.get("seconds")
    if type(number) is not int or not 0 <= number <= world.experiment.rounds:
        raise UserError(f"{path}: damaged checkpoint: of round {number!r}, allowed: 0 to {world.experiment.rounds}")
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise UserError(f"{path}: damaged checkpoint: of {seconds!r} seconds")
    blank = blank_server(world)
    params_D = tensors.pop("params_D", torch.empty(0))
    if (params_D.shape, params_D.dtype) != (blank.params_D.shape, blank.params_D.dtype):
        found = f"{tuple(params_D.shape)} {params_D.dtype}"
        raise UserError(f"{path}: does not fit the model: parameters {found}, expected {tuple(blank.params_D.shape)}")
    states = []
    for prefix, state in _memories(world, blank):
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        try:
            states.append(restore_state(state, own))
        except ValueError as error:
            raise UserError(f"{path}: does not fit '{prefix.rstrip('.')}': {error}") from None
    return Server(number, params_D.to(world.device), states[0], tuple(states[1:])), float(seconds)


def _way_on(world: World, folder: RunFolder, path: Path) -> str:
    """Say how to go on without a checkpoint that cannot be used. It is left as it is: it may be somebody's."""
    if path != folder.previous:
        try:
            server, _ = _read(world, folder, folder.previous)
        except UserError:
            pass
        else:
            move = shlex.join(["mv", str(folder.previous), str(path)])
            return f"the one before it is whole: `{move}` goes back to round {server.round_number}"
    everything = " ".join(shlex.quote(str(each)) for each in (folder.checkpoint, folder.previous) if each.exists())
    return f"without it the run starts again, to the same end: `rm {everything}`"


def _memories(world: World, server: Server) -> list[tuple[str, Any]]:
    """List the memories of all defenses, each with the prefix of its tensors in a checkpoint."""
    shadows = zip(world.shadows, server.shadow_states, strict=True)
    return [("defense.", server.defense_state), *((f"shadow.{each.name}.", state) for each, state in shadows)]
