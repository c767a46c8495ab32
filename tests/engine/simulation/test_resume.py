"""A run that was stopped, killed or damaged, and went on, equals one that was never disturbed, bit for bit."""

import dataclasses
import json
import math
import shutil

import pytest
import torch

import rflbat.simulation.loop
from rflbat import Experiment, Interrupted, UserError, resume, run
from rflbat.storage.run_folder import RunFolder
from rflbat.storage.tensors import load_tensors, save_tensors
from tests.engine.data.leaf_files import write_femnist

ROUNDS = 5
DEFENSES = {
    "fedavg": {"defense": "fedavg"},
    "rflbat": {"defense": "rflbat", "defense_args": {"clusters": 3}},
    "foolsgold": {"defense": "foolsgold", "defense_args": {"memory": True}},
}

every_defense = pytest.mark.parametrize("name", DEFENSES)


def experiment(name, **settings):
    fixed = {"clients": 13, "participants": 9, "rounds": ROUNDS, "local_steps": 3, "batch_size": 7, "momentum": 0.5}
    return Experiment(**{**fixed, "partition": "dirichlet", "checkpoint_every": 2, **DEFENSES[name], **settings})


class Quiet:
    """A callback that does nothing."""

    def on_start(self, run):
        pass

    def on_round(self, record):
        pass

    def on_end(self, summary):
        pass


class StopAfter(Quiet):
    """Ctrl-C right after a round."""

    def __init__(self, last):
        self.last = last

    def on_round(self, record):
        if record["round"] == self.last:
            raise KeyboardInterrupt


class Snapshots(Quiet):
    """Copies of the folder after every round: what a killed run would have left behind."""

    def __init__(self, folder, copies):
        self.folder, self.copies = folder, copies

    def on_round(self, record):
        shutil.copytree(self.folder, self.copies / str(record["round"]))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Uninterrupted runs and their snapshots; no test writes into these folders."""
    root, runs = tmp_path_factory.mktemp("straight"), {}
    for name in DEFENSES:
        callbacks = [Snapshots(root / name, root / f"{name}-after")]
        runs[name] = run(experiment(name), root / name, callbacks)
    return runs


@pytest.fixture
def killed(straight, tmp_path):
    """A run that was killed right after a round, in a folder of its own."""

    def kill(name, last):
        folder = straight[name].folder
        return RunFolder.open(shutil.copytree(folder.with_name(f"{name}-after") / str(last), tmp_path / "killed"))

    return kill


def assert_same(result, expected):
    for name in ("rounds.jsonl", "clients.jsonl"):
        assert (result.folder / name).read_bytes() == (expected.folder / name).read_bytes()
    assert torch.equal(result.params, expected.params)
    assert result.rounds == expected.rounds
    assert {**result.summary, "seconds": 0} == {**expected.summary, "seconds": 0}
    assert json.loads((result.folder / "summary.json").read_text()) == result.summary
    (tensors, meta), (other_tensors, other_meta) = (
        load_tensors(r.folder / "checkpoint.safetensors") for r in (result, expected)
    )
    assert meta["round"] == other_meta["round"] == ROUNDS
    assert tensors.keys() == other_tensors.keys()
    assert all(torch.equal(tensors[name], other_tensors[name]) for name in tensors)
    timings = RunFolder.open(result.folder).timings()
    assert [line["round"] for line in timings] == list(range(ROUNDS))


@every_defense
@pytest.mark.parametrize("last", range(ROUNDS))
def test_interrupted_and_resumed_equals_straight(straight, tmp_path, name, last):
    with pytest.raises(Interrupted) as caught:
        run(experiment(name), tmp_path / "run", [StopAfter(last)])
    assert caught.value.folder == tmp_path / "run"
    assert caught.value.rounds == last + 1
    assert not (tmp_path / "run" / "summary.json").exists()
    assert load_tensors(tmp_path / "run" / "checkpoint.safetensors")[1]["round"] == last + 1
    assert_same(resume(tmp_path / "run"), straight[name])


@every_defense
def test_interrupted_again_and_again_equals_straight(straight, tmp_path, name):
    with pytest.raises(Interrupted):
        run(experiment(name), tmp_path / "run", [StopAfter(0)])
    for last in range(1, ROUNDS):
        with pytest.raises(Interrupted):
            resume(tmp_path / "run", [StopAfter(last)])
    assert_same(resume(str(tmp_path / "run")), straight[name])


@pytest.mark.parametrize("when", ["run_round", "append_round", "append_clients", "append_timing"])
def test_interrupted_within_a_round_equals_straight(straight, tmp_path, monkeypatch, when):
    owner = rflbat.simulation.loop if when == "run_round" else RunFolder
    original, calls = getattr(owner, when), []

    def stop(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(owner, when, stop)
    with pytest.raises(Interrupted) as caught:
        run(experiment("foolsgold"), tmp_path / "run")
    assert caught.value.rounds == 3
    assert_same(resume(tmp_path / "run"), straight["foolsgold"])


@every_defense
@pytest.mark.parametrize("last", range(ROUNDS))
def test_killed_and_resumed_equals_straight(straight, killed, name, last):
    folder = killed(name, last)
    assert folder.summary() is None
    assert folder.checkpoint.exists() is (last >= 1)  # after the first round there is none yet
    assert_same(resume(folder.path), straight[name])


@pytest.mark.parametrize("last", [0, 1, 2])
@pytest.mark.parametrize("file", ["rounds.jsonl", "clients.jsonl", "timings.jsonl"])
def test_killed_while_writing_the_next_round_equals_straight(straight, killed, last, file):
    folder = killed("rflbat", last)
    next_lines = (straight["rflbat"].folder / file).read_bytes().splitlines(keepends=True)
    mine = (folder.path / file).read_bytes()
    following = next_lines[len(mine.splitlines())]
    (folder.path / file).write_bytes(mine + following + following[:17])
    assert_same(resume(folder.path), straight["rflbat"])


def test_killed_before_the_first_round_equals_straight(straight, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(straight["rflbat"].folder / "run.json", tmp_path / "run")
    assert_same(resume(tmp_path / "run"), straight["rflbat"])


def test_killed_before_the_summary_equals_straight(straight, killed):
    folder = killed("foolsgold", ROUNDS - 1)
    result = resume(folder.path)
    assert_same(result, straight["foolsgold"])
    assert result.summary["seconds"] == pytest.approx(sum(line["seconds"] for line in folder.timings()))


def test_settings_that_json_cannot_hold_are_refused():
    """Stored as null they could not be read back, and the run not be resumed."""
    with pytest.raises(UserError, match="eps1=inf"):
        experiment("rflbat", defense_args={"clusters": 2, "eps1": math.inf})


def test_seconds_of_all_sessions_are_summed(tmp_path):
    with pytest.raises(Interrupted):
        run(experiment("fedavg"), tmp_path / "run", [StopAfter(2)])
    result = resume(tmp_path / "run")
    timings = RunFolder.open(tmp_path / "run").timings()
    assert result.summary["seconds"] == pytest.approx(sum(line["seconds"] for line in timings))


def test_callbacks_of_a_resumed_run_are_told_of_the_rest(killed):
    told = []

    class Notes(Quiet):
        def on_round(self, record):
            told.append(record["round"])

    resume(killed("fedavg", 2).path, [Notes()])
    assert told == [2, 3, 4]  # the checkpoint is of round 2


def test_a_finished_run_is_only_read(straight, tmp_path):
    expected = straight["rflbat"]
    shutil.copytree(expected.folder, tmp_path / "run")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "run").iterdir()}
    result = resume(tmp_path / "run")
    assert result.summary == expected.summary
    assert_same(result, expected)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "run").iterdir()} == before


# Runs that cannot be resumed.


@pytest.mark.parametrize("other", [{"seed": 1}, {"defense": "foolsgold", "defense_args": {}}, {"clients": 12}])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, killed, other):
    folder = killed("rflbat", 2)
    foreign = run(dataclasses.replace(experiment("rflbat"), **other), tmp_path / "other")
    shutil.copy(foreign.folder / "checkpoint.safetensors", folder.path)
    with pytest.raises(UserError, match="this checkpoint belongs to a run with other settings"):
        resume(folder.path)


def test_a_checkpoint_whose_memory_does_not_fit_is_refused(killed):
    folder = killed("foolsgold", 2)
    tensors, meta = load_tensors(folder.checkpoint)
    tensors["defense.history_CD"] = tensors["defense.history_CD"][1:]
    save_tensors(folder.checkpoint, tensors, meta)
    with pytest.raises(UserError, match="does not fit 'defense'"):
        resume(folder.path)


def test_a_damaged_checkpoint_is_refused(killed):
    folder = killed("fedavg", 2)
    content = bytearray(folder.checkpoint.read_bytes())
    content[-5] ^= 1
    folder.checkpoint.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        resume(folder.path)


@pytest.mark.parametrize("file", ["rounds.jsonl", "clients.jsonl"])
def test_lines_lost_before_the_checkpoint_are_noticed(killed, file):
    folder = killed("fedavg", 2)  # its checkpoint is of round 2
    first = [line for line in (folder.path / file).read_bytes().splitlines(keepends=True) if b'"round": 0' in line]
    (folder.path / file).write_bytes(b"".join(first))
    with pytest.raises(UserError, match="checkpoint"):
        resume(folder.path)


@pytest.mark.parametrize("content", ["{}", '{"config": 3}', '{"config": {"rounds": "many"}}', "not json", "[]"])
def test_a_damaged_run_json_is_refused(killed, content):
    folder = killed("fedavg", 2)
    (folder.path / "run.json").write_text(content)
    with pytest.raises(UserError):
        resume(folder.path)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="not the folder of a run"):
        resume(tmp_path)
    assert list(tmp_path.iterdir()) == []


# Run folders of version 0.1, which knew fewer settings.


def as_0_1(path, **changes):
    """Take away the settings that 0.1 did not know, in run.json and in the checkpoint."""
    description = json.loads((path / "run.json").read_text())
    for name in ("optimizer", "clip_norm", "drop_last"):
        del description["config"][name]
    description["config"] |= changes
    (path / "run.json").write_text(json.dumps(description))
    tensors, meta = load_tensors(path / "checkpoint.safetensors")
    save_tensors(path / "checkpoint.safetensors", tensors, {**meta, "config": description["config"]})


def test_a_run_of_0_1_goes_on_as_it_began(straight, killed):
    folder = killed("fedavg", 2)
    as_0_1(folder.path)
    resumed = resume(folder.path)
    assert resumed.rounds == straight["fedavg"].rounds
    assert torch.equal(resumed.params, straight["fedavg"].params)


def test_femnist_of_0_1_goes_on_with_the_polarity_of_leaf(tmp_path):
    write_femnist(tmp_path / "femnist")
    settings = {"dataset": "femnist", "data_dir": str(tmp_path), "dataset_args": {"polarity": "leaf"}}
    small = experiment("fedavg", **settings, **{"partition": "natural", "clients": 3, "participants": None})
    run(small, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(small, tmp_path / "run", [StopAfter(2)])
    as_0_1(tmp_path / "run", dataset_args={})
    resumed = resume(tmp_path / "run")
    assert resumed.rounds == RunFolder.open(tmp_path / "whole").rounds()


def test_data_that_give_other_samples_are_refused(killed):
    folder = killed("fedavg", 2)
    description = json.loads((folder.path / "run.json").read_text())
    description["sizes"][0] += 1
    (folder.path / "run.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="the clients' samples of data set 'digits' changed since the run began"):
        resume(folder.path)
