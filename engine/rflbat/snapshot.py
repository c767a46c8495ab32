"""The server as a checkpoint in a run folder, and back."""

import math
import shlex
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rflbat.defenses.base import columns_of, restore_state, state_tensors
from rflbat.errors import UserError
from rflbat.results import checkpoint, streamed
from rflbat.results.folder import RunFolder
from rflbat.results.streamed import Rows, rows_of
from rflbat.round import Server, World
from rflbat.world import blank_server


def save(folder: RunFolder | None, config: Mapping[str, Any], world: World, server: Server, seconds: float) -> None:
    """Write a checkpoint, and keep the one before it. All ranks take part, and rank 0 writes.

    Args:
        folder: the run folder; its lines reach the disk first. None on the ranks that do not write.
        config: the configuration as run.json holds it.
        world: names the defenses.
        server: what is stored.
        seconds: time spent on the rounds so far.

    Raises:
        OSError: the disk is full, or the folder is gone or not writable; the old checkpoint is then untouched.
        RankLost: another rank has ended; the old checkpoint is untouched.
    """
    tensors = {"params_D": server.params_D, **_stored(world, server)}
    if folder is None:
        divided = [tensors[name] for name in sorted(tensors)]
        for each in divided:
            deque(each.blocks if isinstance(each, Rows) else (), maxlen=0)  # this rank's part in every block
        return
    folder.sync()
    meta = {"round": server.round_number, "seconds": seconds, "config": config}
    whole = {name: each for name, each in tensors.items() if not isinstance(each, Rows)}
    if len(whole) == len(tensors):
        checkpoint.save(folder.checkpoint, whole, meta, folder.previous)
    else:
        streamed.save(folder.checkpoint, tensors, meta, folder.previous)


def _stored(world: World, server: Server) -> dict[str, Tensor | Rows]:
    """Name what the defenses remember; what lies by the columns of several ranks comes in blocks of rows."""
    named: dict[str, Tensor | Rows] = {}
    for prefix, memory in _memories(world, server):
        divided = set() if world.ranks.alone else columns_of(memory)
        for name, own in state_tensors(memory).items():
            named[f"{prefix}{name}"] = _in_rows(world, own) if name in divided else own
    return named


def _in_rows(world: World, own: Tensor) -> Rows:
    total = world.model.layout.size
    shape = (*own.shape[:-1], total)
    own_nW = own.reshape(-1, own.shape[-1])
    blocks = (world.ranks.collect(own_nW[rows], total).cpu() for rows in rows_of(shape, own.dtype))
    return Rows(shape, own.dtype, blocks)


def restore(world: World, folder: RunFolder | None, path: Path | None) -> tuple[Server, float]:
    """Read a server back. All ranks take part, however many wrote it, and rank 0 reads.

    Args:
        world: what no round changes.
        folder: the run folder; None on the ranks that do not read.
        path: its latest checkpoint, likewise.

    Returns:
        the server, and the seconds spent so far.

    Raises:
        UserError: the checkpoint is damaged or of another run; the message names the last good one, if there is one.
    """
    if folder is None or path is None:
        return _deal(world, None, (0, 0.0))
    try:
        if world.ranks.alone:
            return _read(world, folder, path)
        stored = streamed.opened(path)
        reached = _reached(world, stored, folder, path)
    except UserError as error:
        raise UserError(f"{error}; {_way_on(world, folder, path)}") from error
    return _deal(world, stored, reached)


def _reached(world: World, stored: streamed.Stored, folder: RunFolder, path: Path) -> tuple[int, float]:
    """Give the next round and the seconds of a checkpoint that fits the run; its tensors are not read."""
    size = (world.experiment.clients, world.model.layout.size, torch.device("meta"))
    shadows = tuple(shadow.init(*size) for shadow in world.shadows)
    whole = Server(0, torch.empty(size[1], device="meta"), world.defense.init(*size), shadows)
    server, seconds = _fitted(world, whole, (stored.shapes, stored.meta), folder, path)
    return server.round_number, seconds


def _deal(world: World, stored: streamed.Stored | None, reached: tuple[int, float]) -> tuple[Server, float]:
    """Give every rank what it needs of what rank 0 has open: all of the model, its columns of the memories."""
    ranks, total = world.ranks, world.model.layout.size
    number, seconds = ranks.tell(reached)
    blank = blank_server(world)

    def everything(name: str, like: Tensor) -> Tensor:
        there = torch.empty_like(like, memory_format=torch.contiguous_format)
        return ranks.spread(there if stored is None else there.copy_(stored.whole(name)))

    def columns(name: str, like: Tensor) -> Tensor:
        shape = (*like.shape[:-1], total)
        blocks = []
        for rows in rows_of(shape, like.dtype):
            block = like.new_empty(0) if stored is None else stored.rows(name, rows).to(like.device)
            blocks.append(ranks.deal(block, rows.stop - rows.start, total))
        return torch.cat(blocks).view(like.shape)

    states = []
    for prefix, state in _memories(world, blank):
        divided = columns_of(state)
        named = {
            name: (columns if name in divided else everything)(f"{prefix}{name}", like)
            for name, like in state_tensors(state).items()
        }
        states.append(restore_state(state, named))
    params_D = everything("params_D", blank.params_D)
    return Server(int(number), params_D, states[0], tuple(states[1:])), float(seconds)


def last_round(folder: RunFolder) -> int | None:
    """Say from which round a run can go on, None where it has no readable checkpoint.

    Args:
        folder: the run folder.

    Returns:
        the next round of the latest checkpoint.
    """
    for path in (folder.checkpoint, folder.previous):
        try:
            return streamed.opened(path).meta.get("round")
        except UserError:
            continue
    return None


def _read(world: World, folder: RunFolder, path: Path) -> tuple[Server, float]:
    return _fitted(world, blank_server(world), checkpoint.load(path), folder, path)


def _fitted(
    world: World, blank: Server, found: tuple[dict[str, Tensor], dict[str, Any]], folder: RunFolder, path: Path
) -> tuple[Server, float]:
    """Put what was found into a server of the right shapes, or say what does not fit."""
    tensors, meta = dict(found[0]), found[1]
    if meta.get("config") != folder.run()["config"]:
        raise UserError(f"{path}: this checkpoint is of a run with other settings than run.json says")
    number, seconds = meta.get("round"), meta.get("seconds")
    if type(number) is not int or not 0 <= number <= world.experiment.rounds:
        raise UserError(f"{path}: damaged checkpoint: of round {number!r}, allowed: 0 to {world.experiment.rounds}")
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise UserError(f"{path}: damaged checkpoint: of {seconds!r} seconds")
    params_D = tensors.pop("params_D", torch.empty(0))
    if (params_D.shape, params_D.dtype) != (blank.params_D.shape, blank.params_D.dtype):
        shape = f"{tuple(params_D.shape)} {params_D.dtype}"
        raise UserError(f"{path}: does not fit the model: parameters {shape}, expected {tuple(blank.params_D.shape)}")
    states = []
    for prefix, state in _memories(world, blank):
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        try:
            states.append(restore_state(state, own))
        except ValueError as error:
            raise UserError(f"{path}: does not fit '{prefix.rstrip('.')}': {error}") from None
    return Server(number, params_D.to(blank.params_D.device), states[0], tuple(states[1:])), float(seconds)


def _way_on(world: World, folder: RunFolder, path: Path) -> str:
    """Say how to go on without a checkpoint that cannot be used. It is left as it is: it may be somebody's."""
    if path != folder.previous:
        try:
            number, _ = _reached(world, streamed.opened(folder.previous), folder, folder.previous)
        except UserError:
            pass
        else:
            move = shlex.join(["mv", str(folder.previous), str(path)])
            return f"the one before it is whole: `{move}` goes back to round {number}"
    everything = " ".join(shlex.quote(str(each)) for each in (folder.checkpoint, folder.previous) if each.exists())
    return f"without it the run starts again, to the same end: `rm {everything}`"


def _memories(world: World, server: Server) -> list[tuple[str, Any]]:
    """List the memories of all defenses, each with the prefix of its tensors in a checkpoint."""
    shadows = zip(world.shadows, server.shadow_states, strict=True)
    return [("defense.", server.defense_state), *((f"shadow.{each.name}.", state) for each, state in shadows)]
