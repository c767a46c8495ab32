"""Save the server as a checkpoint in a run folder, and restore it."""

import math
import shlex
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rflbat.defenses.base import columns_of, restore_state, state_tensors
from rflbat.errors import UserError
from rflbat.round.setup import empty_state
from rflbat.round.state import Federation, ServerState
from rflbat.storage.run_folder import RunFolder
from rflbat.storage.tensors import OpenCheckpoint, Rows, load_tensors, open_checkpoint, rows_of, save_tensors


def save(
    folder: RunFolder | None, config: Mapping[str, Any], federation: Federation, server: ServerState, seconds: float
) -> None:
    """Write a checkpoint and keep the previous one. All ranks take part, and rank 0 writes.

    Args:
        folder: the run folder, whose record files are synced to disk first; None on the ranks that do not write.
        config: the configuration as stored in run.json.
        federation: names the defenses.
        server: the server to store.
        seconds: time spent on the rounds so far.

    Raises:
        OSError: the disk is full, or the folder is missing or not writable; the old checkpoint is then untouched.
        RankLost: another rank exited or stopped responding; the old checkpoint is untouched.
    """
    tensors = {"params_D": server.params_D, **_previous(server), **_stored(federation, server)}
    if folder is None:
        divided = [tensors[name] for name in sorted(tensors)]
        for each in divided:
            deque(each.blocks if isinstance(each, Rows) else (), maxlen=0)  # take part in gathering every block
        return
    folder.sync()
    meta = {"round": server.round_number, "seconds": seconds, "config": config}
    save_tensors(folder.checkpoint, tensors, meta, folder.previous)


def _previous(server: ServerState) -> dict[str, Tensor]:
    """Name the global parameters one round before, which only some defenses need."""
    return {} if server.previous_D is None else {"previous_D": server.previous_D}


def _stored(federation: Federation, server: ServerState) -> dict[str, Tensor | Rows]:
    """Name the tensors of the defense states; those sharded by columns over several ranks come in blocks of rows."""
    named: dict[str, Tensor | Rows] = {}
    for prefix, memory in _memories(federation, server):
        divided = set() if federation.ranks.is_single else columns_of(memory)
        for name, own in state_tensors(memory).items():
            named[f"{prefix}{name}"] = _in_rows(federation, own) if name in divided else own
    return named


def _in_rows(federation: Federation, own: Tensor) -> Rows:
    total = federation.model.layout.size
    shape = (*own.shape[:-1], total)
    rows_first = own if own.ndim > 1 else own[None]
    blocks = (
        federation.ranks.gather_rows(rows_first[rows].reshape(-1, own.shape[-1]), total).cpu()
        for rows in rows_of(shape, own.dtype)
    )
    return Rows(shape, own.dtype, blocks)


def restore(federation: Federation, folder: RunFolder | None, path: Path | None) -> tuple[ServerState, float]:
    """Restore a server from a checkpoint.

    All ranks take part, whatever their number when it was written, and rank 0 reads.

    Args:
        federation: what no round changes.
        folder: the run folder; None on the ranks that do not read.
        path: the latest checkpoint; None on the ranks that do not read.

    Returns:
        the server, and the seconds spent so far.

    Raises:
        UserError: the checkpoint is damaged or belongs to another run; the message names the last good one, if any.
    """
    if folder is None or path is None:
        return _deal(federation, None, (0, 0.0))
    try:
        if federation.ranks.is_single:
            return _read(federation, folder, path)
        stored = open_checkpoint(path)
        reached = _reached(federation, stored, folder, path)
    except UserError as error:
        raise UserError(f"{error}; {_way_on(federation, folder, path)}") from error
    return _deal(federation, stored, reached)


def _reached(federation: Federation, stored: OpenCheckpoint, folder: RunFolder, path: Path) -> tuple[int, float]:
    """Return next round and seconds of a checkpoint that fits the run, without reading its tensors."""
    size = (federation.experiment.clients, federation.defense_columns, torch.device("meta"))
    shadows = tuple(shadow.init(*size) for shadow in federation.shadows)
    params_D = torch.empty(federation.model.layout.size, device="meta")
    previous_D = params_D if "history" in federation.needs else None
    attack_state = federation.attack.init(size[1], size[2])
    optimizer_state = federation.server_optimizer.init(params_D[: federation.server_columns])
    whole = ServerState(0, params_D, federation.defense.init(*size), shadows, previous_D, attack_state, optimizer_state)
    server, seconds = _fitted(federation, whole, (stored.shapes, stored.meta), folder, path)
    return server.round_number, seconds


def _deal(
    federation: Federation, stored: OpenCheckpoint | None, reached: tuple[int, float]
) -> tuple[ServerState, float]:
    """Broadcast the parameters of rank 0's checkpoint, and scatter the columns of the defense states."""
    ranks, total = federation.ranks, federation.model.layout.size
    number, seconds = ranks.broadcast_object(reached)
    blank = empty_state(federation)

    def everything(name: str, like: Tensor) -> Tensor:
        there = torch.empty_like(like, memory_format=torch.contiguous_format)
        return ranks.broadcast(there if stored is None else there.copy_(stored.whole(name)))

    def columns(name: str, like: Tensor) -> Tensor:
        shape = (*like.shape[:-1], total)
        blocks = []
        for rows in rows_of(shape, like.dtype):
            count = (rows.stop - rows.start) * math.prod(shape[1:-1])
            block = like.new_empty(0) if stored is None else stored.rows(name, rows).reshape(-1, total).to(like.device)
            blocks.append(ranks.scatter_rows(block, count, total))
        return torch.cat(blocks).view(like.shape)

    states = []
    for prefix, state in _memories(federation, blank):
        divided = columns_of(state)
        named = {
            name: (columns if name in divided else everything)(f"{prefix}{name}", like)
            for name, like in state_tensors(state).items()
        }
        states.append(restore_state(state, named))
    params_D = everything("params_D", blank.params_D)
    previous_D = None if blank.previous_D is None else everything("previous_D", blank.previous_D)
    return replace(
        _with_memories(blank, states), round_number=int(number), params_D=params_D, previous_D=previous_D
    ), float(seconds)


def last_round(folder: RunFolder) -> int | None:
    """Return the round from which a run can continue.

    Args:
        folder: the run folder.

    Returns:
        the next round of the latest readable checkpoint; None without one.
    """
    for path in (folder.checkpoint, folder.previous):
        try:
            return open_checkpoint(path).meta.get("round")
        except UserError:
            continue
    return None


def _read(federation: Federation, folder: RunFolder, path: Path) -> tuple[ServerState, float]:
    return _fitted(federation, empty_state(federation), load_tensors(path), folder, path)


def _fitted(
    federation: Federation,
    blank: ServerState,
    found: tuple[dict[str, Tensor], dict[str, Any]],
    folder: RunFolder,
    path: Path,
) -> tuple[ServerState, float]:
    """Build a server from a checkpoint's contents, or raise an error that says which part does not fit."""
    tensors, meta = dict(found[0]), found[1]
    if meta.get("config") != folder.run()["config"]:
        raise UserError(f"{path}: this checkpoint belongs to a run with other settings than those in run.json")
    number, seconds = meta.get("round"), meta.get("seconds")
    if type(number) is not int or not 0 <= number <= federation.experiment.rounds:
        raise UserError(f"{path}: damaged checkpoint: round {number!r}, allowed: 0 to {federation.experiment.rounds}")
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise UserError(f"{path}: damaged checkpoint: seconds {seconds!r}, allowed: a finite number")
    models = [tensors.pop(name, torch.empty(0)) for name in ("params_D", *_previous(blank))]
    for params_D in models:
        if (params_D.shape, params_D.dtype) != (blank.params_D.shape, blank.params_D.dtype):
            shape = f"{tuple(params_D.shape)} {params_D.dtype}"
            wanted = tuple(blank.params_D.shape)
            raise UserError(f"{path}: does not fit the model: parameters {shape}, expected {wanted}")
    states = []
    for prefix, state in _memories(federation, blank):
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        try:
            states.append(restore_state(state, own))
        except ValueError as error:
            raise UserError(f"{path}: does not fit '{prefix.rstrip('.')}': {error}") from None
    placed = [params_D.to(blank.params_D.device) for params_D in models]
    previous_D = placed[1] if len(placed) > 1 else None
    server = replace(_with_memories(blank, states), round_number=number, params_D=placed[0], previous_D=previous_D)
    return server, float(seconds)


def _way_on(federation: Federation, folder: RunFolder, path: Path) -> str:
    """Explain how to continue without an unusable checkpoint; it is not deleted, since it may be another run's."""
    if path != folder.previous:
        try:
            number, _ = _reached(federation, open_checkpoint(folder.previous), folder, folder.previous)
        except UserError:
            pass
        else:
            move = shlex.join(["mv", str(folder.previous), str(path)])
            return f"the previous one is intact: `{move}` returns to round {number}"
    everything = " ".join(shlex.quote(str(each)) for each in (folder.checkpoint, folder.previous) if each.exists())
    return f"without it the run restarts from round 0 and reaches the same result: `rm {everything}`"


def _memories(federation: Federation, server: ServerState) -> list[tuple[str, Any]]:
    """List all states, each with the prefix of its tensor names in a checkpoint; a part without state has none."""
    shadows = zip(federation.shadows, server.shadow_states, strict=True)
    found = [("defense.", server.defense_state), *((f"shadow.{each.name}.", state) for each, state in shadows)]
    others = (("attack.", server.attack_state), ("optimizer.", server.optimizer_state))
    return [*found, *(other for other in others if other[1] is not None)]


def _with_memories(blank: ServerState, states: Sequence[Any]) -> ServerState:
    """Return a server with other states, in the order of ``_memories``."""
    left = list(states)
    defense_state, *shadow_states = (left.pop(0) for _ in range(1 + len(blank.shadow_states)))
    attack_state = None if blank.attack_state is None else left.pop(0)
    optimizer_state = None if blank.optimizer_state is None else left.pop(0)
    return replace(
        blank,
        defense_state=defense_state,
        shadow_states=tuple(shadow_states),
        attack_state=attack_state,
        optimizer_state=optimizer_state,
    )
