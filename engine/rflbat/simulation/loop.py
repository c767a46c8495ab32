"""The loop over rounds, with callbacks, run folder, checkpoints and resume."""

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
from rflbat.round.setup import build, check_start, initial_state
from rflbat.round.state import Federation, RoundOutcome, ServerState
from rflbat.simulation.callbacks import Callback
from rflbat.simulation.checkpoint import last_round, restore, save
from rflbat.simulation.interrupts import held_signals
from rflbat.simulation.provenance import describe, peak_bytes
from rflbat.storage.lock import sole_writer
from rflbat.storage.run_folder import RUN, RunFolder
from rflbat_kernels import using


class Interrupted(Stopped):
    """The user stopped a run; it can be resumed.

    Args:
        folder: the run folder, which contains a checkpoint if at least one round is finished; None for a run without
            one.
        rounds: number of finished rounds.
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
    """Result of a run.

    Args:
        summary: contents of summary.json.
        rounds: all lines of rounds.jsonl.
        params: global parameters ``(D,)`` after the last round.
        folder: the run folder, or None.
    """

    summary: dict[str, Any]
    rounds: list[dict[str, Any]]
    params: Tensor
    folder: Path | None


def run(experiment: Experiment, out: str | Path | None = None, callbacks: Sequence[Callback] = ()) -> Result:
    """Run an experiment.

    In a process group of several ranks (``torchrun``, see ``rflbat.ranks``) every rank calls this function with the
    same experiment, and together they run it once.

    Args:
        experiment: what to run.
        out: folder to create for the run; None keeps everything in memory. Only rank 0 writes to it.
        callbacks: called before the first round, after each round and after the last.

    Returns:
        summary, rounds and final parameters.

    Raises:
        UserError: settings do not fit the data, or the folder already contains a run, is in use by another process or
            cannot be written.
        Interrupted: Ctrl-C; a checkpoint was written.
        RankLost: another rank exited or stopped responding; the last checkpoint is untouched.

    Example:
        >>> result = run(Experiment(dataset="digits", clients=10, rounds=2, malicious=0.0, defense="fedavg"))
        >>> result.summary["rounds"]
        2
    """
    federation = build(experiment)
    check_start(federation.experiment)  # before a folder is created
    description = describe(federation)
    if out is None or not federation.ranks.is_main:
        return _loop(federation, _first(federation, None, description), description, None, callbacks, [], 0.0)
    with sole_writer(Path(out)):
        folder = RunFolder.create(Path(out), description)
        _write_words(federation, folder)
        return _loop(federation, _first(federation, folder, description), description, folder, callbacks, [], 0.0)


def resume(path: str | Path, callbacks: Sequence[Callback] = ()) -> Result:
    """Continue a run from its last checkpoint; a finished run is only read.

    Every draw is keyed by (seed, purpose, round), so on one machine the result equals that of an uninterrupted run. The
    number of ranks may differ from that of earlier sessions.

    Args:
        path: run folder; only rank 0 needs to read it.
        callbacks: called before the first remaining round, after each round and after the last.

    Returns:
        as ``run``.

    Raises:
        UserError: the folder contains no run, a file of it is damaged or belongs to another run, another process is
            writing it, or it cannot be written.
        Interrupted: Ctrl-C; a checkpoint was written.
    """
    ranks = get_ranks()
    if not ranks.is_main:
        return _follow(ranks, callbacks)
    folder = RunFolder.open(Path(path))
    description = folder.run()
    if not isinstance(description.get("config"), dict):
        raise UserError(f"{folder.path / RUN}: damaged: it has no configuration")
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
        raise UserError(f"{folder.path}: the clients' samples of data set '{data}' changed since the run began")
    if latest is None:
        server, seconds = _first(federation, folder, description), 0.0
    else:
        server, seconds = restore(federation, folder, latest)
    if finished is not None:
        return Result(finished, folder.rounds(), server.params_D, folder.path)
    with _writing(folder):
        folder.truncate(server.round_number)
        _write_words(federation, folder)
    rounds = folder.rounds()
    listed = {record["round"] for record in folder.clients()}
    if not len(rounds) == len(listed) == server.round_number:
        known = f"{len(rounds)} rounds and the clients of {len(listed)} rounds are recorded"
        raise UserError(f"{folder.path}: the checkpoint is at round {server.round_number}, but {known}")
    federation.ranks.broadcast_object(rounds)
    return _loop(federation, server, description, folder, callbacks, rounds, seconds)


def recorded(description: Mapping[str, Any]) -> Experiment:
    """Read the settings of run.json.

    Runs of version 0.1 have no setting ``optimizer``, and some of their data sets were loaded differently.

    Args:
        description: the contents of run.json.

    Returns:
        the settings; a run of 0.1 on FEMNIST keeps the polarity of LEAF's files.

    Raises:
        UserError: a setting is unknown or out of range, or the run is one of 0.1 on amazon, whose test texts were
            chosen differently.
    """
    experiment = Experiment.from_dict(description["config"])
    if "optimizer" in description["config"]:
        return experiment
    if experiment.dataset == "amazon":
        raise UserError("a run on amazon of version 0.1 had other test texts and cannot be resumed; start a new run")
    if experiment.dataset == "femnist":
        return experiment.changed({"dataset_args": {"polarity": "leaf", **experiment.dataset_args}})
    return experiment


def _follow(ranks: Ranks, callbacks: Sequence[Callback]) -> Result:
    """Resume a run on a rank other than 0; rank 0 reads the run folder and broadcasts its contents."""
    told = ranks.broadcast_object()
    federation = build(recorded(told["description"]))
    if told["begun"]:
        server, seconds = restore(federation, None, None)
    else:
        server, seconds = _first(federation, None, told["description"]), 0.0
    if told["finished"] is not None:
        return Result(told["finished"], [], server.params_D, None)
    return _loop(federation, server, told["description"], None, callbacks, ranks.broadcast_object(), seconds)


def _write_words(federation: Federation, folder: RunFolder) -> None:
    if federation.vocabulary is not None:
        with _writing(folder):
            folder.write_vocabulary(federation.vocabulary)


@contextmanager
def _writing(folder: RunFolder | None) -> Iterator[None]:
    """Turn a failed write into an error that says from which round the run can continue."""
    try:
        yield
    except OSError as error:
        if folder is None:
            raise
        what = f"{error.filename or folder.path}: cannot be written: {error.strerror or error}"
        if not folder.path.is_dir():
            raise UserError(f"{what}; the run folder {folder.path} no longer exists") from error
        done = last_round(folder)
        since = "from the start, without a checkpoint yet" if done is None else f"from the checkpoint of round {done}"
        again = shlex.join(["rflbat", "resume", str(folder.path)])
        raise UserError(f"{what}; once this is fixed, `{again}` continues {since}") from error


def _first(federation: Federation, folder: RunFolder | None, description: Mapping[str, Any]) -> ServerState:
    """Return the server before round 0; this may take a while, because some defenses run warm-up rounds first."""
    start = description.get("start")
    sha256 = start.get("sha256") if isinstance(start, dict) else None
    try:
        with using(federation.experiment.kernels), explain_out_of_memory(federation):
            return initial_state(federation, sha256)
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
    """Run the remaining rounds.

    The lines of a round are written before the server advances, so no round is lost. A chunk that did not fit is not
    tried again in this session. All ranks are at the same round when a checkpoint is written: a request to stop waits
    for the end of the round.
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
    """Agree on the smallest chunk, the largest memory and whether to stop; check that all kept the same clients."""
    kept = zlib.crc32(outcome.decision.kept.numpy().tobytes())
    chunk, memory, stop, high, low = map(int, ranks.all_max(-outcome.chunk, memory, asked, kept, -kept))
    if high != -low:
        raise RuntimeError(
            f"round {outcome.round_number}: the ranks did not keep the same clients; their results must be identical"
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
