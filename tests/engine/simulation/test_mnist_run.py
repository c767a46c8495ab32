"""The paper's claim on real MNIST, shortened to 20 rounds: runs only where the data is at hand."""

import os

import pytest

from rflbat import Experiment, run
from rflbat.round.setup import DATA_DIR

pytestmark = pytest.mark.skipif(not os.environ.get(DATA_DIR), reason=f"{DATA_DIR} is not set: no MNIST here")


def summary(defense):
    return run(
        Experiment(
            dataset="mnist",
            clients=100,
            partition="dirichlet",
            alpha=1.0,
            malicious=0.5,
            rounds=20,
            seed=0,
            defense=defense,
            eval_every=20,
        )
    ).summary


def test_rflbat_holds_against_half_of_the_clients():
    result = summary("rflbat")
    assert result["accuracy"] > 0.86
    assert result["attack_success_rate"] < 0.03


def test_without_a_defense_the_backdoor_works():
    assert summary("fedavg")["attack_success_rate"] > 0.9
