"""The loop over rounds: callbacks, the run folder, checkpoint and resume."""

import shlex
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from rflbat.config import Experiment
from rflbat.errors import UserError
from rflbat.footprint import told_of_memory
from rflbat.peak import peak_bytes
from rflbat.ranks import Ranks, current
from rflbat.records import client_records, download, round_record, shadow_records, summarise
from rflbat.results.folder import RUN, RunFolder
from rflbat.results.lock import sole_writer
from rflbat.round import Outcome, Server, World, run_round
from rflbat.signals import held_signals
from rflbat.snapshot import last_round, restore, save
from rflbat.world import build, describe, first_server
from rflbat_kernels import using


class Callback(Protocol):
    """What is told of a run while it goes on."""

    def on_start(self, run: Mapping[str, Any]) -> None:
        """Be told the contents of run.json before the first round."""

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Be told the line of a round, with its ``seconds`` and the peak ``memory`` so far in bytes."""

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Be told the contents of summary.json."""


class Interrupted(Exception):
    """A run was stopped by the user, and can be resumed.

    Args:
        folder: the run folder, which holds a checkpoint if a round was done; None if the run has none.
        rounds: rounds done.
    """

    def __init__(self, folder: Path | None, rounds: int) -> None:
        super().__init__(folder, rounds)
        self.folder = folder
        self.rounds = rounds

    def __str__(self) -> str:
        return f"interrupted after {self.rounds} rounds"


@dataclass(frozen=True)
class Result:
    """What a run gives back.

    Args:
        summary: contents of summary.json.
        rounds: every line of rounds.jsonl.
        params: global parameters ``(D,)`` after the last round.
        folder: the run folder, or None.
    """

    summary: dict[str, Any]
    rounds: list[dict[str, Any]]
    params: Tensor
    folder: Path | None


def run(experiment: Experiment, out: str | Path | None = None, callbacks: Sequence[Callback] = ()) -> Result:
    """Run an experiment.

    In a process group of several ranks (``torchrun``, see ``rflbat.ranks``) all of them call this with the same
    experiment, and together run it once.

    Args:
        experiment: what to run.
        out: folder to create for the run; None keeps everything in memory. Of several ranks, rank 0 alone has it.
        callbacks: told of the start, every round and the end.

    Returns:
        summary, rounds and final parameters.

    Raises:
        UserError: settings or data do not fit, the folder already holds a run or is in use by another process, or
            it cannot be written to.
        Interrupted: Ctrl-C; a checkpoint was written.
        RankLost: another rank has ended; the last checkpoint is untouched.

    Example:
        >>> result = run(Experiment(dataset="digits", clients=10, rounds=2, malicious=0.0, defense="fedavg"))
        >>> result.summary["rounds"]
        2
    """
    world = build(experiment)
    description = describe(world)
    if out is None or not world.ranks.first:
        return _loop(world, _first(world, None), description, None, callbacks, [], 0.0)
    with sole_writer(Path(out)):
        folder = RunFolder.create(Path(out), description)
        _write_words(world, folder)
        return _loop(world, _first(world, folder), description, folder, callbacks, [], 0.0)


def resume(path: str | Path, callbacks: Sequence[Callback] = ()) -> Result:
    """Go on with a run from its last checkpoint; a finished run is only read.

    Every draw is keyed by (seed, purpose, round), so on one machine the result equals that of an undisturbed run. How
    many ranks ran it so far does not matter.

    Args:
        path: run folder, of which rank 0 alone needs to be able to read.
        callbacks: told of the start, every further round and the end.

    Returns:
        as ``run``.

    Raises:
        UserError: no run is there, a file of it is damaged or belongs to another run, another process is at work on
            it, or it cannot be written to.
        Interrupted: Ctrl-C; a checkpoint was written.
    """
    ranks = current()
    if not ranks.first:
        return _follow(ranks, callbacks)
    folder = RunFolder.open(Path(path))
    description = folder.run()
    if not isinstance(description.get("config"), dict):
        raise UserError(f"{folder.path / RUN}: damaged: it holds no configuration")
    if folder.summary() is not None:
        return _go_on(folder, description, callbacks)
    with sole_writer(folder.path):
        return _go_on(folder, description, callbacks)


def _go_on(folder: RunFolder, description: dict[str, Any], callbacks: Sequence[Callback]) -> Result:
    latest, finished = folder.latest, folder.summary()
    current().tell({"description": description, "begun": latest is not None, "finished": finished})
    world = build(recorded(description))
    if finished is None and description.get("sizes") not in (None, [len(own) for own in world.samples]):
        data = world.experiment.dataset
        raise UserError(f"{folder.path}: data set '{data}' gives its clients other samples than when the run began")
    server, seconds = (_first(world, folder), 0.0) if latest is None else restore(world, folder, latest)
    if finished is not None:
        return Result(finished, folder.rounds(), server.params_D, folder.path)
    with _writing(folder):
        folder.truncate(server.round_number)
        _write_words(world, folder)
    rounds = folder.rounds()
    listed = {record["round"] for record in folder.clients()}
    if not len(rounds) == len(listed) == server.round_number:
        known = f"{len(rounds)} rounds and the clients of {len(listed)} are recorded"
        raise UserError(f"{folder.path}: the checkpoint is of round {server.round_number}, but {known}")
    world.ranks.tell(rounds)
    return _loop(world, server, description, folder, callbacks, rounds, seconds)


def recorded(description: Mapping[str, Any]) -> Experiment:
    """Read the settings of run.json; a run of 0.1 knows no optimizer, and its data may have been others.

    Args:
        description: the contents of run.json.

    Returns:
        the settings; FEMNIST of 0.1 was fed as LEAF's files hold it.

    Raises:
        UserError: a setting is unknown or out of its range; or it is a run of 0.1 on amazon, whose test texts were
            chosen otherwise.
    """
    experiment = Experiment.from_dict(description["config"])
    if "optimizer" in description["config"]:
        return experiment
    if experiment.dataset == "amazon":
        raise UserError("a run on amazon of version 0.1 had other test texts and cannot go on; start it again")
    if experiment.dataset == "femnist":
        return experiment.changed({"dataset_args": {"polarity": "leaf", **experiment.dataset_args}})
    return experiment


def _follow(ranks: Ranks, callbacks: Sequence[Callback]) -> Result:
    """Go on with a run beside rank 0, which reads the folder and tells what is there."""
    told = ranks.tell()
    world = build(recorded(told["description"]))
    server, seconds = restore(world, None, None) if told["begun"] else (_first(world, None), 0.0)
    if told["finished"] is not None:
        return Result(told["finished"], [], server.params_D, None)
    return _loop(world, server, told["description"], None, callbacks, ranks.tell(), seconds)


def _write_words(world: World, folder: RunFolder) -> None:
    if world.words is not None:
        with _writing(folder):
            folder.write_vocabulary(world.words)


@contextmanager
def _writing(folder: RunFolder | None) -> Iterator[None]:
    """Tell of a full disk or a folder that is gone, and from where the run can go on."""
    try:
        yield
    except OSError as error:
        if folder is None:
            raise
        what = f"{error.filename or folder.path}: cannot be written: {error.strerror or error}"
        if not folder.path.is_dir():
            raise UserError(f"{what}; the run folder {folder.path} is gone, and the run with it") from error
        done = last_round(folder)
        since = (
            "from the start, no checkpoint being there yet" if done is None else f"from the checkpoint of round {done}"
        )
        again = shlex.join(["rflbat", "resume", str(folder.path)])
        raise UserError(f"{what}; once that is mended, `{again}` goes on {since}") from error


def _first(world: World, folder: RunFolder | None) -> Server:
    """Make the server before round 0, which may take its time: a defense may have to learn first."""
    try:
        with using(world.experiment.kernels), told_of_memory(world):
            return first_server(world)
    except KeyboardInterrupt:
        raise Interrupted(folder.path if folder else None, 0) from None


def _loop(
    world: World,
    server: Server,
    description: dict[str, Any],
    folder: RunFolder | None,
    callbacks: Sequence[Callback],
    rounds: list[dict[str, Any]],
    seconds: float,
) -> Result:
    """Run the rounds that are left. A round's lines are written before the server moves on, so nothing is lost.

    A chunk that did not fit is not tried again in this session. Over several ranks all are at the same place when a
    checkpoint is written: a wish to stop waits for the end of the round.
    """
    experiment, config, chunk, ranks = world.experiment, description["config"], world.backend.chunk, world.ranks
    kept, stop = ranks.most(folder is not None)[0] > 0, False
    try:
        for callback in callbacks:
            callback.on_start(description)
        with held_signals(ranks) as asked:
            while server.round_number < experiment.rounds:
                started = time.perf_counter()
                with using(experiment.kernels), told_of_memory(world):
                    after, outcome = run_round(replace(world, backend=replace(world.backend, chunk=chunk)), server)
                    outcome = download(outcome)
                outcome, memory, stop = _agree(ranks, outcome, peak_bytes(world.device), asked())
                chunk, record = min(chunk, outcome.chunk), round_record(world, outcome)
                spent = time.perf_counter() - started
                cost = {"seconds": spent, "memory": memory}
                if folder is not None:
                    _append(folder, world, outcome, record, cost)
                rounds.append(record)
                server, seconds = after, seconds + spent
                due = server.round_number % experiment.checkpoint_every == 0 or server.round_number == experiment.rounds
                if kept and due:
                    _save(folder, config, world, server, seconds)
                for callback in callbacks:
                    callback.on_round({**record, **cost})
                if stop:
                    raise KeyboardInterrupt
        summary = ranks.tell(summarise(world, rounds, seconds))
        if folder is not None:
            with _writing(folder):
                folder.write_summary(summary)
    except KeyboardInterrupt:
        if kept and (ranks.alone or stop):
            _save(folder, config, world, server, seconds)
        raise Interrupted(folder.path if folder else None, server.round_number) from None
    for callback in callbacks:
        callback.on_end(summary)
    return Result(summary, rounds, server.params_D, folder.path if folder else None)


def _agree(ranks: Ranks, outcome: Outcome, memory: int, asked: bool) -> tuple[Outcome, int, bool]:
    """Agree on the smallest chunk, the largest memory and whether to stop; all must have kept the same clients."""
    kept = zlib.crc32(outcome.decision.kept.numpy().tobytes())
    chunk, memory, stop, high, low = map(int, ranks.most(-outcome.chunk, memory, asked, kept, -kept))
    if high != -low:
        raise RuntimeError(
            f"round {outcome.round_number}: the ranks do not keep the same clients; they must compute alike"
        )
    return replace(outcome, chunk=-chunk), memory, bool(stop)


def _append(
    folder: RunFolder, world: World, outcome: Outcome, record: dict[str, Any], cost: Mapping[str, float]
) -> None:
    with _writing(folder):
        folder.append_round(record)
        folder.append_clients(client_records(world, outcome))
        if outcome.shadows:
            folder.append_shadows(shadow_records(world, outcome))
        folder.append_timing({"round": outcome.round_number, **cost})


def _save(folder: RunFolder | None, config: Mapping[str, Any], world: World, server: Server, seconds: float) -> None:
    with _writing(folder):
        save(folder, config, world, server, seconds)
