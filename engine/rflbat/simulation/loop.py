"""The loop over rounds: callbacks, the run folder, checkpoint and resume."""

import shlex
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rflbat.errors import Stopped, UserError
from rflbat.experiment.config import Experiment
from rflbat.ranks import Ranks, get_ranks
from rflbat.round.memory import explain_out_of_memory
from rflbat.round.records import client_records, download, round_record, shadow_records, summarise
from rflbat.round.round import run_round
from rflbat.round.setup import build, initial_state
from rflbat.round.state import Federation, RoundOutcome, ServerState
from rflbat.simulation.callbacks import Callback
from rflbat.simulation.checkpoint import last_round, restore, save
from rflbat.simulation.interrupts import held_signals
from rflbat.simulation.provenance import describe, peak_bytes
from rflbat.storage.lock import sole_writer
from rflbat.storage.run_folder import RUN, RunFolder
from rflbat_kernels import using


class Interrupted(Stopped):
    """A run was stopped by the user, and can be resumed.

    Args:
        folder: the run folder, which holds a checkpoint if a round was done; None if the run has none.
        rounds: rounds done.
    """

    exit_status = 130

    def __init__(self, folder: Path | None, rounds: int) -> None:
        super().__init__(folder, rounds)
        self.folder = folder
        self.rounds = rounds

    def __str__(self) -> str:
        command = f"; continue with `rflbat resume {shlex.quote(str(self.folder))}`" if self.folder else ""
        return f"interrupted after {self.rounds} rounds{command}"


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
    federation = build(experiment)
    description = describe(federation)
    if out is None or not federation.ranks.is_main:
        return _loop(federation, _first(federation, None), description, None, callbacks, [], 0.0)
    with sole_writer(Path(out)):
        folder = RunFolder.create(Path(out), description)
        _write_words(federation, folder)
        return _loop(federation, _first(federation, folder), description, folder, callbacks, [], 0.0)


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
    ranks = get_ranks()
    if not ranks.is_main:
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
    get_ranks().broadcast_object({"description": description, "begun": latest is not None, "finished": finished})
    federation = build(recorded(description))
    if finished is None and description.get("sizes") not in (None, [len(own) for own in federation.client_indices]):
        data = federation.experiment.dataset
        raise UserError(f"{folder.path}: data set '{data}' gives its clients other samples than when the run began")
    server, seconds = (_first(federation, folder), 0.0) if latest is None else restore(federation, folder, latest)
    if finished is not None:
        return Result(finished, folder.rounds(), server.params_D, folder.path)
    with _writing(folder):
        folder.truncate(server.round_number)
        _write_words(federation, folder)
    rounds = folder.rounds()
    listed = {record["round"] for record in folder.clients()}
    if not len(rounds) == len(listed) == server.round_number:
        known = f"{len(rounds)} rounds and the clients of {len(listed)} are recorded"
        raise UserError(f"{folder.path}: the checkpoint is of round {server.round_number}, but {known}")
    federation.ranks.broadcast_object(rounds)
    return _loop(federation, server, description, folder, callbacks, rounds, seconds)


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
    told = ranks.broadcast_object()
    federation = build(recorded(told["description"]))
    server, seconds = restore(federation, None, None) if told["begun"] else (_first(federation, None), 0.0)
    if told["finished"] is not None:
        return Result(told["finished"], [], server.params_D, None)
    return _loop(federation, server, told["description"], None, callbacks, ranks.broadcast_object(), seconds)


def _write_words(federation: Federation, folder: RunFolder) -> None:
    if federation.vocabulary is not None:
        with _writing(folder):
            folder.write_vocabulary(federation.vocabulary)


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


def _first(federation: Federation, folder: RunFolder | None) -> ServerState:
    """Make the server before round 0, which may take its time: a defense may have to learn first."""
    try:
        with using(federation.experiment.kernels), explain_out_of_memory(federation):
            return initial_state(federation)
    except KeyboardInterrupt:
        raise Interrupted(folder.path if folder else None, 0) from None


def _loop(
    federation: Federation,
    server: ServerState,
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
    experiment, config, chunk, ranks = (
        federation.experiment,
        description["config"],
        federation.backend.chunk,
        federation.ranks,
    )
    kept, stop = ranks.all_max(folder is not None)[0] > 0, False
    try:
        for callback in callbacks:
            callback.on_start(description)
        with held_signals(ranks) as asked:
            while server.round_number < experiment.rounds:
                started = time.perf_counter()
                with using(experiment.kernels), explain_out_of_memory(federation):
                    after, outcome = run_round(
                        replace(federation, backend=replace(federation.backend, chunk=chunk)), server
                    )
                    outcome = download(outcome)
                outcome, memory, stop = _agree(ranks, outcome, peak_bytes(federation.device), asked())
                chunk, record = min(chunk, outcome.chunk), round_record(federation, outcome)
                spent = time.perf_counter() - started
                cost = {"seconds": spent, "memory": memory}
                if folder is not None:
                    _append(folder, federation, outcome, record, cost)
                rounds.append(record)
                server, seconds = after, seconds + spent
                due = server.round_number % experiment.checkpoint_every == 0 or server.round_number == experiment.rounds
                if kept and due:
                    _save(folder, config, federation, server, seconds)
                for callback in callbacks:
                    callback.on_round({**record, **cost})
                if stop:
                    raise KeyboardInterrupt
        summary = ranks.broadcast_object(summarise(federation, rounds, seconds))
        if folder is not None:
            with _writing(folder):
                folder.write_summary(summary)
    except KeyboardInterrupt:
        if kept and (ranks.is_single or stop):
            _save(folder, config, federation, server, seconds)
        raise Interrupted(folder.path if folder else None, server.round_number) from None
    for callback in callbacks:
        callback.on_end(summary)
    return Result(summary, rounds, server.params_D, folder.path if folder else None)


def _agree(ranks: Ranks, outcome: RoundOutcome, memory: int, asked: bool) -> tuple[RoundOutcome, int, bool]:
    """Agree on the smallest chunk, the largest memory and whether to stop; all must have kept the same clients."""
    kept = zlib.crc32(outcome.decision.kept.numpy().tobytes())
    chunk, memory, stop, high, low = map(int, ranks.all_max(-outcome.chunk, memory, asked, kept, -kept))
    if high != -low:
        raise RuntimeError(
            f"round {outcome.round_number}: the ranks do not keep the same clients; they must compute alike"
        )
    return replace(outcome, chunk=-chunk), memory, bool(stop)


def _append(
    folder: RunFolder, federation: Federation, outcome: RoundOutcome, record: dict[str, Any], cost: Mapping[str, float]
) -> None:
    with _writing(folder):
        folder.append_round(record)
        folder.append_clients(client_records(federation, outcome))
        if outcome.shadows:
            folder.append_shadows(shadow_records(federation, outcome))
        folder.append_timing({"round": outcome.round_number, **cost})


def _save(
    folder: RunFolder | None, config: Mapping[str, Any], federation: Federation, server: ServerState, seconds: float
) -> None:
    with _writing(folder):
        save(folder, config, federation, server, seconds)
