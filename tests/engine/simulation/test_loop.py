"""A whole run: its result, its files, its callbacks. test_resume.py tests stopping and resuming."""

import dataclasses
import json
import pickle

import pytest
import torch

from rflbat import Experiment, Interrupted, UserError, run
from rflbat.round.round import run_round
from rflbat.round.setup import build, initial_state
from rflbat.storage.run_folder import RunFolder
from rflbat.storage.schema import MEASURES
from rflbat.storage.tensors import load_tensors


def small(**settings):
    return Experiment(**{"clients": 13, "rounds": 3, "local_steps": 3, "batch_size": 7, **settings})


def without_seconds(summary):
    return {key: value for key, value in summary.items() if key != "seconds"}


class Notes:
    """A callback that records its calls."""

    def __init__(self):
        self.told = []

    def on_start(self, run):
        self.told.append(("start", run))

    def on_round(self, record):
        self.told.append(("round", record))

    def on_end(self, summary):
        self.told.append(("end", summary))


def test_a_run_is_its_rounds_one_after_another():
    result, federation = run(small()), build(small())
    server = initial_state(federation)
    for number in range(3):
        server, outcome = run_round(federation, server)
        measured = [result.rounds[number][key] for key in MEASURES]
        assert measured == outcome.measures.tolist()
    assert torch.equal(result.params, server.params_D)
    assert [record["round"] for record in result.rounds] == [0, 1, 2]
    assert [result.summary[key] for key in MEASURES] == measured


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(small())
    assert result.folder is None
    assert result.summary["rounds"] == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("defense", ["fedavg", "rflbat", "foolsgold"])
def test_the_folder_changes_no_number(tmp_path, defense):
    inside, outside = run(small(defense=defense), tmp_path / "run"), run(small(defense=defense))
    assert torch.equal(inside.params, outside.params)
    assert inside.rounds == outside.rounds
    assert without_seconds(inside.summary) == without_seconds(outside.summary)


@pytest.mark.parametrize("defense", ["fedavg", "rflbat", "foolsgold"])
def test_the_folder_holds_what_the_run_gave_back(tmp_path, defense):
    result = run(small(defense=defense, participants=7, partition="dirichlet"), str(tmp_path / "a" / "run"))
    assert result.folder == tmp_path / "a" / "run"
    folder = RunFolder.open(result.folder)
    assert folder.rounds() == result.rounds
    assert folder.summary() == result.summary
    rows = folder.clients()
    assert [row["round"] for row in rows] == [0] * 7 + [1] * 7 + [2] * 7
    for record in result.rounds:
        mine = [row for row in rows if row["round"] == record["round"]]
        assert sum(row["kept"] for row in mine) == record["kept"]
        assert sum(row["malicious"] for row in mine) == record["malicious"] == 4
        assert sum(row["weight"] for row in mine) == pytest.approx(1, abs=1e-12)
        assert sum(row["weight"] for row in mine if row["malicious"]) == pytest.approx(record["malicious_weight"])
        assert all(row["samples"] == folder.run()["sizes"][row["client"]] for row in mine)
    timings = folder.timings()
    assert [line["round"] for line in timings] == [0, 1, 2]
    assert sum(line["seconds"] for line in timings) == pytest.approx(result.summary["seconds"])
    tensors, meta = load_tensors(folder.checkpoint)
    assert torch.equal(tensors["params_D"], result.params)
    assert meta["round"] == 3


def test_run_json_says_what_ran(tmp_path):
    experiment = small(defense="rflbat", device="auto", chunk=5, defense_args={"clusters": 2})
    run(experiment, tmp_path / "run")
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    config = described["config"]
    assert config["device"] != "auto"
    assert (config["model"], config["attack"], config["participants"]) == ("logistic", "pixel", 13)
    filled = {"device", "model", "attack", "participants"}
    same = {key: value for key, value in experiment.to_dict().items() if key not in filled}
    assert {key: config[key] for key in same} == {**same, "data_dir": config["data_dir"]}
    assert build(Experiment.from_dict(config)).experiment.to_dict() == config
    assert described["backend"] == dataclasses.asdict(build(experiment).backend)
    assert (described["backend"]["name"], described["backend"]["chunk"]) == ("analytic", 5)
    assert described["stages"] == ["kept", "nonfinite", "filter1", "cluster", "filter2"]
    assert (described["clients"], sum(described["sizes"]), described["parameters"]) == (13, 1442, 7850)
    assert {"torch", "numpy", "python"} <= set(described["versions"])


def test_callbacks_are_told_everything_in_order(tmp_path):
    notes, more = Notes(), Notes()
    result = run(small(), tmp_path / "run", [notes, more])
    assert notes.told == more.told
    assert [what for what, _ in notes.told] == ["start", "round", "round", "round", "end"]
    assert notes.told[0][1] == json.loads((tmp_path / "run" / "run.json").read_text())
    told = [
        {key: value for key, value in record.items() if key not in ("seconds", "memory")}
        for _, record in notes.told[1:-1]
    ]
    assert told == result.rounds
    assert sum(record["seconds"] for _, record in notes.told[1:-1]) == pytest.approx(result.summary["seconds"])
    assert notes.told[-1][1] == result.summary


def test_a_round_is_on_disk_before_anybody_is_told(tmp_path):
    seen = []

    class Reader(Notes):
        def on_round(self, record):
            folder = RunFolder.open(tmp_path / "run")
            seen.append((len(folder.rounds()), len(folder.clients()), len(folder.timings()), folder.summary()))

    run(small(), tmp_path / "run", [Reader()])
    assert seen == [(n, 13 * n, n, None) for n in (1, 2, 3)]


@pytest.mark.parametrize(("every", "rounds"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (3, [3, 5]), (10, [5])])
def test_checkpoints_come_on_schedule_and_at_the_end(tmp_path, every, rounds):
    seen = set()

    class Looker(Notes):
        def on_round(self, record):
            folder = RunFolder.open(tmp_path / "run")
            if folder.checkpoint.exists():
                seen.add(load_tensors(folder.checkpoint)[1]["round"])

    run(small(rounds=5, checkpoint_every=every), tmp_path / "run", [Looker()])
    assert sorted(seen) == rounds


def test_a_used_folder_is_refused_and_left_alone(tmp_path):
    run(small(), tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UserError, match="already holds a run"):
        run(small(seed=1), tmp_path / "run")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_target_that_is_no_label_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"^target=10 is not a label of digits; allowed: 0 to 9$"):
        run(small(target=10), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_seeds_differ_and_repeat():
    one, again, other = run(small()), run(small()), run(small(seed=1))
    assert torch.equal(one.params, again.params)
    assert one.rounds == again.rounds
    assert not torch.equal(one.params, other.params)


def test_interrupted_without_a_folder_says_so():
    class Stop(Notes):
        def on_round(self, record):
            if record["round"] == 1:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"^interrupted after 2 rounds$") as caught:
        run(small(), None, [Stop()])
    assert caught.value.folder is None
    assert caught.value.rounds == 2


def test_interrupted_survives_the_way_back_from_a_process(tmp_path):
    # A sweep with several processes sends exceptions between them; one that cannot be rebuilt breaks the whole pool.
    copy = pickle.loads(pickle.dumps(Interrupted(tmp_path, 3)))
    assert (copy.folder, copy.rounds, str(copy)) == (tmp_path, 3, str(Interrupted(tmp_path, 3)))


def test_a_mistake_survives_the_way_back_from_a_process():
    copy = pickle.loads(pickle.dumps(UserError("lr=0 is out of range")))
    assert (type(copy), str(copy)) == (UserError, "lr=0 is out of range")


def test_an_error_of_a_callback_is_not_swallowed(tmp_path):
    class Broken(Notes):
        def on_round(self, record):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        run(small(), tmp_path / "run", [Broken()])
