"""Two and four ranks run what one rank runs: the same draws, the same clients kept, the same model to rounding."""

import json
import shutil

import numpy as np
import pytest
import torch

from rflbat import Experiment, Interrupted, UserError, resume, run
from rflbat.defenses.registry import DEFENSES
from rflbat.ranks import Ranks
from rflbat.round.setup import _check_divisible
from rflbat.simulation.callbacks import CallbackBase
from rflbat.storage.run_folder import CHECKPOINT, CLIENTS, PREVIOUS, ROUNDS, RUN, RunFolder
from rflbat.storage.tensors import load_tensors
from tests.engine.ranks.launch import drive

SMALL = {
    "clients": 13,
    "participants": 11,
    "rounds": 3,
    "local_steps": 2,
    "batch_size": 7,
    "malicious": 0.3,
    "scale": 5.0,
    "device": "cpu",
    "partition": "dirichlet",
    "checkpoint_every": 2,
}
AUTOENCODER = {"surrogate": 300, "hidden": 8, "code": 4, "epochs": 5}
CASES = {name: {**SMALL, "defense": name} for name in DEFENSES if name != "deepsight"} | {
    "autoencoder": {**SMALL, "defense": "autoencoder", "defense_args": AUTOENCODER},
    "noise": {**SMALL, "defense": "norm_clipping", "defense_args": {"noise": 0.01}},
    "auror_alpha": {**SMALL, "defense": "auror", "defense_args": {"alpha": 0.01}},
    "this_round": {**SMALL, "defense": "foolsgold", "defense_args": {"memory": False}},
    "looked_on": {**SMALL, "defense": "fedavg", "shadow": "foolsgold,median,rflbat", "attack": "dba", "momentum": 0.5},
    "seven": {**SMALL, "defense": "multikrum", "participants": 7, "backend": "vmap", "chunk": 2},
    "loop": {**SMALL, "defense": "median", "backend": "loop", "eval_every": 2},
    "diverges": {**SMALL, "defense": "rflbat", "lr": 30.0, "scale": 3e38},
    "augmented": {**SMALL, "defense": "median", "augment": "crop(padding=2),flip"},
    "passes": {
        **SMALL,
        "defense": "rfa",
        "defense_args": {"passes": 1},
        "clients": 132,
        "participants": 130,
        "partition": "iid",
    },
}
FEW = {
    "few": {**SMALL, "defense": "foolsgold", "participants": 3},
    **{name: CASES[name] for name in ("rflbat", "bulyan", "auror", "autoencoder", "seven")},
}
LONG = {**SMALL, "defense": "foolsgold", "rounds": 5, "shadow": "foolsgold,fedavg", "participants": 6}
MEASURED = {
    **SMALL,
    **{"clients": 384, "participants": None, "partition": "iid", "model": "cnn", "defense": "rflbat"},
    **{"shadow": "median", "batch_size": 1, "local_steps": 1, "backend": "vmap", "chunk": 4, "eval_every": 3},
}


class StopAfter(CallbackBase):
    def __init__(self, last):
        self.last = last

    def on_round(self, record):
        if record["round"] == self.last:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Results of one rank for every case."""
    place = tmp_path_factory.mktemp("one")
    for name, settings in {**CASES, **FEW, "long": LONG}.items():
        run(Experiment(**settings), place / name)
    with pytest.raises(Interrupted):
        run(Experiment(**LONG), place / "stopped", [StopAfter(2)])
    return place


@pytest.fixture(scope="module")
def two(one, tmp_path_factory):
    """Two ranks: every case; a run stopped by a signal to one of them; a run resumed from one rank."""
    place = tmp_path_factory.mktemp("two")
    shutil.copytree(one / "stopped", place / "from_one")
    shutil.copytree(one / "long", place / "finished")
    tasks = [["run", name, settings] for name, settings in CASES.items()]
    tasks += [["stop", "stopped", LONG, 1, 1], ["stop", "interrupted", LONG, 0, 0]]
    tasks += [["resume", "from_one"], ["resume", "finished"]]
    tasks += [["mistake", "unlike", {**SMALL, "seed": [0, 1]}]]
    tasks += [["mistake", "layers", {**SMALL, "defense": "deepsight"}]]
    tasks += [["mistake", "whole", {**SMALL, "defense": "rflbat", "defense_args": {"pca": "lowrank"}}]]
    return place, drive(2, place, tasks)


@pytest.fixture(scope="module")
def four(two, tmp_path_factory):
    """Four ranks: a few cases; a run resumed from two ranks; the memory of a round."""
    place = tmp_path_factory.mktemp("four")
    shutil.copytree(two[0] / "stopped", place / "from_two")
    tasks = [["run", name, settings] for name, settings in FEW.items()]
    tasks += [["resume", "from_two"], ["memory", "memory", MEASURED]]
    return place, drive(4, place, tasks)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def numbers(records, name):
    return np.array([np.nan if record[name] is None else record[name] for record in records], dtype=float)


def alike(one, several):
    """The same masks, rounds and files; numbers and the model to rounding."""
    left, right = lines(one / CLIENTS), lines(several / CLIENTS)
    for name in ("round", "client", "malicious", "kept", "stage", "cluster", "samples"):
        assert [record[name] for record in left] == [record[name] for record in right], name
    for name in ("weight", "score"):
        np.testing.assert_allclose(numbers(right, name), numbers(left, name), rtol=1e-4, atol=1e-6)
    left, right = lines(one / ROUNDS), lines(several / ROUNDS)
    assert [record["kept"] for record in left] == [record["kept"] for record in right]
    np.testing.assert_allclose(numbers(right, "accuracy"), numbers(left, "accuracy"), atol=0.01)
    (tensors, meta), (others, other_meta) = load_tensors(one / CHECKPOINT), load_tensors(several / CHECKPOINT)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert (tensor.shape, tensor.dtype) == (others[name].shape, others[name].dtype)
        if tensor.is_floating_point():
            size = max(1.0, float(tensor.abs().max()))
            torch.testing.assert_close(others[name] / size, tensor / size, rtol=1e-4, atol=1e-5, msg=name)
        else:
            assert torch.equal(others[name], tensor)
    assert (meta["round"], meta["config"]) == (other_meta["round"], other_meta["config"])


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_run_what_one_runs(name, one, two):
    alike(one / name, two[0] / name)


@pytest.mark.parametrize("name", FEW)
def test_four_ranks_run_what_one_runs_even_with_fewer_clients(name, one, four):
    alike(one / name, four[0] / name)


def test_somebody_is_dropped_and_somebody_is_not_finite(one):
    dropped = {name for name in CASES if any(record["dropped"] for record in lines(one / name / ROUNDS))}
    assert {"rflbat", "krum", "multikrum", "bulyan", "auror", "autoencoder", "foolsgold"} <= dropped
    assert any(record["nonfinite"] for record in lines(one / "diverges" / ROUNDS))


@pytest.mark.parametrize("count", [2, 4])
def test_every_rank_ends_with_the_same_result_to_the_last_bit(count, two, four):
    first, *others = {2: two, 4: four}[count][1]
    names = CASES if count == 2 else FEW
    assert all(other[name] == first[name] for other in others for name in names)


def test_rank_0_alone_keeps_the_books_and_says_how_many_there_are(two, four):
    for count, (place, _) in ((2, two), (4, four)):
        assert RunFolder(place / "rflbat").run()["ranks"] == count
        files = {path.name for path in (place / "rflbat").iterdir()}
        assert {RUN, CLIENTS, ROUNDS, CHECKPOINT, PREVIOUS} <= files
        assert ".lock" not in files


@pytest.mark.parametrize(("name", "rounds"), [("stopped", 2), ("interrupted", 1)])
def test_a_signal_to_one_rank_stops_all_after_its_round(name, rounds, two):
    place, (first, second) = two
    assert first[name]["rounds"] == second[name]["rounds"] in (rounds, rounds + 1)
    assert first[name]["folder"]
    assert not second[name]["folder"]
    assert load_tensors(place / name / CHECKPOINT)[1]["round"] == first[name]["rounds"]


def test_a_run_of_one_rank_goes_on_with_two(one, two):
    alike(one / "long", two[0] / "from_one")


def test_a_run_of_two_ranks_goes_on_with_one(one, two, tmp_path):
    shutil.copytree(two[0] / "stopped", tmp_path / "run")
    resume(tmp_path / "run")
    alike(one / "long", tmp_path / "run")


def test_a_run_of_two_ranks_goes_on_with_four(one, four):
    place, accounts = four
    alike(one / "long", place / "from_two")
    assert all(account["from_two"] == accounts[0]["from_two"] for account in accounts)


def test_a_finished_run_is_read_on_every_rank(one, two):
    first, second = (account["finished"] for account in two[1])
    assert first["summary"] == second["summary"] == RunFolder(one / "long").summary()
    assert first["params"] == second["params"]


def test_ranks_that_would_not_run_the_same_are_refused(two):
    for account in two[1]:
        assert account["unlike"]["said"].startswith("the ranks do not run the same experiment: their settings")


def test_what_needs_all_columns_at_once_is_refused(two):
    for account in two[1]:
        said = account["layers"]["said"]
        assert said.startswith("defense 'deepsight' with these parameters needs complete updates")
        assert account["whole"]["said"].startswith("defense 'rflbat' with these parameters needs complete updates")


def test_no_rank_holds_what_one_rank_holds(four):
    """Measured: all that the operations of a round hold at a time, against the updates of its 384 clients."""
    for account in four[1]:
        updates = 384 * account["memory"]["parameters"] * 4
        assert 0.25 * updates < account["memory"]["peak"] < 0.6 * updates


@pytest.mark.parametrize(("whole", "ours"), [(None, True), (False, False), (False, True)])
def test_what_works_by_columns_is_divided(whole, ours):
    _check_divisible("defense", "rank", Federation, whole, ours)


def test_another_packages_defense_must_say_that_it_works_by_columns():
    """It may sum over columns by itself, and would then decide on a part without knowing."""
    with pytest.raises(UserError, match=r"^attack 'mine:loud' does not declare `needs_all_columns`"):
        _check_divisible("attack", "mine:loud", Federation, None, ours=False)


class Federation:
    ranks = Ranks(0, 2)
