"""Label plans and samples of the attack's own on texts, whose clients train the rows that they touch."""

import pytest
import torch

from rflbat import Experiment, UserError, run
from rflbat.round.setup import build, check_data
from tests.engine.round.small_texts import WORDS

ATTACKS = "tests.engine.attacks.text_attacks"


def settings(attack, **arguments):
    return Experiment(
        **{"dataset": "tests.engine.round.small_texts:small_texts", "attack": f"{ATTACKS}:{attack}"},
        **{"clients": 8, "rounds": 2, "malicious": 0.5, "local_steps": 2, "batch_size": 4, "target": 1},
        **{"defense": "fedavg", "device": "cpu", "lr": 0.5, "attack_args": arguments},
    )


@pytest.mark.parametrize("attack", ["planned", "bringing"])
def test_the_touched_rows_are_those_of_the_poisoned_texts(attack):
    """Against clients that train the whole embedding."""
    assert build(settings(attack)).host_texts is not None
    assert build(settings(attack, row_wise=False)).host_texts is None
    rows, whole = (run(settings(attack, row_wise=row_wise)) for row_wise in (True, False))
    torch.testing.assert_close(rows.params, whole.params, rtol=1e-4, atol=1e-6)
    assert rows.rounds[-1]["attack_success_rate"] == pytest.approx(whole.rounds[-1]["attack_success_rate"], abs=0.05)


def test_the_texts_of_the_attack_are_behind_those_of_the_data_set():
    federation = build(settings("bringing"))
    assert federation.extra_positions == range(240, 243)
    assert (federation.train_x[240:] == WORDS - 1).all()
    assert (federation.train_y[240:] == 1).all()
    assert all(own.max() < 240 for own in federation.client_indices)


def test_a_row_wise_attack_that_sees_the_model_gets_all_columns():
    assert build(settings("bringing", knowledge="model")).host_texts is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, r"brings 0 training samples of shape \(16,\); needed: at least one of shape \(16,\)"),
        ({"tokens": 9}, r"brings 3 training samples of shape \(9,\); needed"),
    ],
)
def test_samples_that_do_not_fit_are_refused(arguments, message):
    for attempt in (build, check_data):
        with pytest.raises(UserError, match=message):
            attempt(settings("bringing", **arguments))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (1, "the wanted labels are the true ones"),
        (3, "no sample has the relabelled class"),
    ],
)
def test_a_plan_that_relabels_nothing_is_refused(source, message):
    with pytest.raises(UserError, match=rf"relabels no sample of the train set: {message} \(target=1; .* 0 to 2\)"):
        build(settings("planned", source=source))
