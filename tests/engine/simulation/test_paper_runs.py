"""Whole runs on the paper's other data, from small files in their real formats: writers' images and reviews."""

import json
import math
from pathlib import Path

import pytest

from rflbat.cli.main import main
from rflbat.errors import UserError
from rflbat.experiment.config import Experiment
from rflbat.simulation.loop import run
from tests.engine.data.leaf_files import document, make_users, write_json
from tests.engine.data.test_amazon import rows_of, write


@pytest.fixture
def writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sizes = {f"f{number}": 3 + number for number in range(6)}
    write_json(tmp_path / "femnist" / "leaf_train.json", document(make_users(sizes)))
    write_json(tmp_path / "femnist" / "leaf_test.json.gz", document(make_users({"f0": 8}, seed=6)))
    return tmp_path


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    write(tmp_path / "amazon" / "Reviews.csv.gz", rows_of(), packed=True)
    return tmp_path


def small(data_dir: Path, **changes: object) -> Experiment:
    settings = {
        "data_dir": str(data_dir),
        "clients": 6,
        "rounds": 2,
        "local_steps": 2,
        "batch_size": 3,
        "malicious": 0.5,
    }
    return Experiment.from_dict({**settings, **changes})


def test_writers_are_the_clients(writers: Path) -> None:
    out = writers / "run"
    result = run(small(writers, dataset="femnist", partition="natural", defense="krum"), out)
    described = json.loads((out / "run.json").read_text())
    assert described["sizes"] == [3, 4, 5, 6, 7, 8]
    assert (described["parameters"], described["config"]["model"], described["config"]["attack"]) == (
        *(214590, "cnn"),
        "pixel",
    )
    assert described["backend"]["name"] == "loop"
    assert all(0 <= result.summary[key] <= 1 for key in ("accuracy", "attack_success_rate"))
    assert not (out / "vocabulary.txt").exists()


def test_reviews_are_read_by_the_lstm_and_attacked_by_a_sentence(reviews: Path) -> None:
    out = reviews / "run"
    result = run(small(reviews, dataset="amazon", defense="fedavg"), out)
    described = json.loads((out / "run.json").read_text())
    words = (out / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
    assert words[:2] == ["<pad>", "<unk>"]
    assert described["parameters"] == 100 * len(words) + 80800 + 64 * 101 + 5 * 65
    assert (described["config"]["model"], described["config"]["attack"]) == ("lstm", "sentence")
    assert all(0 <= result.summary[key] <= 1 for key in ("accuracy", "attack_success_rate"))


@pytest.mark.parametrize("dataset", ["femnist", "amazon", "digits"])
def test_a_distributed_backdoor_reports_each_local_trigger(dataset: str, writers: Path, reviews: Path) -> None:
    out = writers / "run"
    result = run(small(writers, dataset=dataset, attack="dba", malicious=0.67, eval_every=2, scale=100.0), out)
    first, last = (json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines())
    assert first["local_attack_success_rates"] is None
    rates = result.summary["local_attack_success_rates"]
    assert rates == last["local_attack_success_rates"]
    assert len(rates) == 4
    assert all(0 <= rate <= 1 for rate in rates)


def test_other_attacks_report_no_local_triggers(tmp_path: Path) -> None:
    assert "local_attack_success_rates" not in run(small(tmp_path, dataset="digits")).summary


def test_parameters_of_the_data_set_reach_it(reviews: Path) -> None:
    out = reviews / "run"
    arguments = ["--dataset-arg", "vocabulary=20", "--dataset-arg", "per_class=5", "--dataset-arg", "tokens=30"]
    flags = ["--dataset", "amazon", "--data-dir", str(reviews), "--clients", "4", "--rounds", "1", "--local-steps", "1"]
    assert main(["run", *flags, *arguments, "--tokenizer", "basic_english", "--out", str(out), "--quiet"]) == 0
    described = json.loads((out / "run.json").read_text())
    assert described["config"]["dataset_args"] == {"vocabulary": 20, "per_class": 5, "tokens": 30}
    assert len((out / "vocabulary.txt").read_text(encoding="utf-8").splitlines()) == 20
    assert sum(described["sizes"]) == 4 * 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "digits", "tokenizer": "basic_english"}, "data set 'digits' has no parameter 'tokenizer'"),
        ({"dataset": "amazon", "tokenizer": "basic"}, "unknown tokenizer 'basic'"),
        (
            {"dataset": "amazon", "dataset_args": {"per_clas": 3}},
            "data set 'amazon' has no parameter 'per_clas'; did you",
        ),
        ({"dataset": "amazon", "attack": "pixel"}, "attack 'pixel' needs images"),
        ({"dataset": "amazon", "model": "cnn"}, "model 'cnn' needs images"),
        ({"dataset": "digits", "model": "lstm"}, "model 'lstm' needs texts"),
        ({"dataset": "digits", "attack": "sentence"}, "attack 'sentence' needs texts"),
        ({"dataset": "digits", "partition": "natural"}, "the natural partition needs"),
    ],
)
def test_what_does_not_fit_is_told(changes: dict[str, object], message: str, reviews: Path) -> None:
    with pytest.raises(UserError) as caught:
        run(small(reviews, **changes))
    assert str(caught.value).startswith(message)


def test_a_text_of_chance_is_no_attack(reviews: Path) -> None:
    """Without malicious clients the rate is that of a clean model: a number, not a claim."""
    result = run(small(reviews, dataset="amazon", malicious=0.0, defense="fedavg"))
    assert math.isfinite(result.summary["attack_success_rate"])
    assert result.summary["recall"] is None
