"""A defense as an estimator: the conventions of scikit-learn, and the same numbers as `aggregate`."""

from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import estimator_checks_generator

from rflbat import UserError, aggregate
from rflbat.interop.sklearn import DefenseAggregator

DEFENSES = [("fedavg", None), ("median", None), ("krum", {"f": 2}), ("multikrum", {"f": 2, "m": 5}), ("rflbat", None)]


def updates(seed: int = 0, clients: int = 12, parameters: int = 30) -> Any:
    rows_ND = np.random.default_rng(seed).normal(size=(clients, parameters))
    rows_ND[:3] += 8.0
    return rows_ND


@pytest.mark.parametrize(("defense", "params"), DEFENSES)
def test_numbers_are_those_of_aggregate(defense: str, params: dict[str, object] | None) -> None:
    rows_ND, sizes = updates(), np.arange(1, 13)
    fitted = DefenseAggregator(defense, params, seed=5).fit(rows_ND, sample_weight=sizes)
    wanted = aggregate(rows_ND, defense, sizes=sizes, seed=5, **(params or {}))
    for have, want in [
        (fitted.aggregate_, wanted.update),
        (fitted.kept_, wanted.kept),
        (fitted.weights_, wanted.weights),
        (fitted.scores_, wanted.scores),
    ]:
        np.testing.assert_array_equal(have, want.numpy())
    assert (fitted.stage_ == "kept").tolist() == (wanted.trace["stage"] == 0).tolist()


def test_dropped_rows_are_outliers() -> None:
    rows_ND = updates()
    rows_ND[7, 3] = np.nan
    judge = DefenseAggregator("multikrum", {"f": 3, "m": 8})
    assert judge.fit_predict(rows_ND).tolist() == [-1, -1, -1, 1, 1, 1, 1, -1, 1, 1, 1, 1]
    assert judge.stage_[7] == "nonfinite"
    assert np.isfinite(judge.aggregate_).all()


def test_partial_fit_goes_on_and_fit_starts_anew() -> None:
    rounds = [np.random.default_rng(seed).normal(size=(6, 30)) for seed in range(3)]
    judge, state = DefenseAggregator("foolsgold", seed=4), None
    for index, rows_ND in enumerate(rounds):
        judge.partial_fit(rows_ND)
        wanted = aggregate(rows_ND, "foolsgold", state=state, seed=4 + index)
        state = wanted.state
        np.testing.assert_array_equal(judge.weights_, wanted.weights.numpy())
    assert judge.rounds_ == 3
    alone = aggregate(rounds[2], "foolsgold", seed=4)
    assert not np.array_equal(judge.weights_, alone.weights.numpy())
    np.testing.assert_array_equal(judge.fit(rounds[2]).weights_, alone.weights.numpy())
    assert judge.rounds_ == 1


def test_partial_fit_refuses_other_columns() -> None:
    judge = DefenseAggregator("fedavg").partial_fit(updates())
    with pytest.raises(UserError, match="X has 7 features, but DefenseAggregator is expecting 30"):
        judge.partial_fit(updates(parameters=7))


def test_parameters_and_clones() -> None:
    judge = DefenseAggregator("krum", {"f": 1}, seed=3)
    assert judge.get_params() == {"defense": "krum", "params": {"f": 1}, "seed": 3}
    copy = clone(judge.fit(updates()))
    assert copy.get_params() == judge.get_params()
    assert not hasattr(copy, "kept_")
    copy.set_params(defense="median", params=None)
    np.testing.assert_array_equal(copy.fit(updates()).aggregate_, DefenseAggregator("median").fit(updates()).aggregate_)


def test_last_step_of_a_pipeline() -> None:
    rows_ND = updates()
    line = make_pipeline(StandardScaler(), DefenseAggregator("krum", {"f": 3}))
    wanted = DefenseAggregator("krum", {"f": 3}).fit_predict(StandardScaler().fit_transform(rows_ND))
    assert line.fit_predict(rows_ND).tolist() == wanted.tolist()


def test_mistakes_are_told() -> None:
    with pytest.raises(UserError, match="did you mean 'krum'"):
        DefenseAggregator("krumm").fit(updates())
    with pytest.raises(UserError, match="dense matrix of real numbers"):
        DefenseAggregator("fedavg").fit([["a", "b"], ["c", "d"]])
    with pytest.raises(UserError, match="expected"):
        DefenseAggregator("fedavg").fit([1.0, 2.0])


def test_a_tensor_gives_numpy() -> None:
    rows_ND = updates()
    fitted = DefenseAggregator("fedavg").fit(torch.from_numpy(rows_ND))
    assert isinstance(fitted.aggregate_, np.ndarray)
    np.testing.assert_array_equal(fitted.aggregate_, DefenseAggregator("fedavg").fit(rows_ND).aggregate_)


JUDGE = DefenseAggregator("multikrum", {"f": 1, "m": 3})
OTHERWISE = {
    "check_all_zero_sample_weights_error": "a client without samples is refused in other words",
    "check_sample_weight_equivalence_on_dense_data": "a client without samples is refused",
    "check_complex_data": "refused in other words",
    "check_dtype_object": "refused as a UserError, a ValueError, not as a TypeError",
    "check_estimators_empty_data_messages": "refused in other words",
    "check_fit2d_1sample": "refused in other words: Multi-Krum needs at least four clients",
}
"""Where this estimator differs from what scikit-learn checks."""
if not hasattr(estimator_checks, "check_all_zero_sample_weights_error"):
    del OTHERWISE["check_all_zero_sample_weights_error"]  # older releases lack it
if sklearn.__version__.startswith("1.6."):
    OTHERWISE["check_sample_weight_equivalence_on_sparse_data"] = "1.6 checks it though the tags say no sparse input"
CHECKS = {
    f"{index}-{check.func.__name__}": check
    for index, (_, check) in enumerate(estimator_checks_generator(JUDGE))
    if check.func.__name__ not in OTHERWISE
}


def test_what_is_left_out_exists() -> None:
    names = {check.func.__name__ for _, check in estimator_checks_generator(JUDGE)}
    assert set(OTHERWISE) <= names
    assert len(CHECKS) >= 40


@pytest.mark.parametrize("name", CHECKS)
def test_checks_of_scikit_learn(name: str) -> None:
    CHECKS[name](clone(JUDGE))
