"""Transforms against rows that are computed one by one, and defenses behind them against the same rows.

Axes: N clients, D parameters.
"""

import numpy as np
import pytest
import torch

import rflbat
from rflbat.defenses.base import Updates
from rflbat.defenses.registry import make_defense
from rflbat.errors import UserError
from rflbat.randomness import replayed
from rflbat.transforms.base import before
from rflbat.transforms.registry import TRANSFORMS, make_transforms
from rflbat_kernels import finite_rows
from tests.kernels.device_waits import waits_forbidden

N, D = 11, 40
UNIFORMS_U = torch.from_numpy(np.random.default_rng(7).random(64))
CASES = {"random": 0.0, "a large common part": 1e3}


def matrix(common=0.0, broken=()):
    matrix_ND = torch.randn(N, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + common
    matrix_ND[4] = matrix_ND[5]
    for row in broken:
        matrix_ND[row, 1] = torch.nan
    return matrix_ND


def updates(matrix_ND):
    valid_N = finite_rows(matrix_ND)
    return Updates(matrix_ND, torch.arange(1.0, N + 1, dtype=torch.float64), torch.arange(N), valid_N)


def defined(name, matrix_ND, parameter):
    """The rows of a transform, and which clients they are made of, by loops."""
    rows = {row: matrix_ND[row].numpy() for row in range(N) if bool(matrix_ND[row].isfinite().all())}
    if name == "clip":
        norms = {row: np.linalg.norm(value) for row, value in rows.items()}
        bound = np.median(list(norms.values())) if parameter == "median" else parameter
        return [(value * min(1, bound / norms[row]), [row]) for row, value in rows.items()]
    if name == "nnm":
        found = []
        for row, value in rows.items():
            order = sorted(rows, key=lambda other: (other != row, np.linalg.norm(value - rows[other])))
            nearest = order[: len(rows) - parameter]
            found.append((np.mean([rows[other] for other in nearest], 0), nearest))
        return found
    keys = UNIFORMS_U[:N].numpy()
    order = sorted(rows, key=lambda row: keys[row])
    buckets = [order[first : first + parameter] for first in range(0, len(order), parameter)]
    return [(np.mean([rows[row] for row in bucket], 0), bucket) for bucket in buckets]


TEXTS = {"nnm": "nnm(f={})", "bucketing": "bucketing(s={})", "clip": "clip(c={})"}
PARAMETERS = [("nnm", 0), ("nnm", 3), ("bucketing", 1), ("bucketing", 2), ("bucketing", 4), ("clip", 5.0)]
PARAMETERS += [("clip", "median")]


@pytest.mark.parametrize("broken", [(), (0, 7)], ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_rows_and_their_geometry(name, parameter, case, broken):
    matrix_ND = matrix(CASES[case], broken)
    (transform,) = make_transforms(TEXTS[name].format(parameter))
    made = transform.apply(updates(matrix_ND), replayed(UNIFORMS_U))
    expected = np.stack([row for row, _ in defined(name, matrix_ND, parameter)])
    valid_K = made.valid_N.numpy()
    np.testing.assert_allclose(made.matrix_ND.numpy()[valid_K], expected, rtol=1e-12, atol=1e-12)
    squared = ((expected[:, None] - expected) ** 2).sum(2)
    found = made.squared_distances_NN.numpy()[valid_K][:, valid_K]
    np.testing.assert_allclose(found, squared, rtol=1e-9, atol=1e-9 * max(1, squared.max()))
    centred = (expected - expected.mean(0)) @ (expected - expected.mean(0)).T
    np.testing.assert_allclose(
        made.gram.centred_NN.numpy()[valid_K][:, valid_K], centred, rtol=1e-8, atol=1e-9 * max(1, squared.max())
    )
    np.testing.assert_allclose(made.norms_N.numpy()[valid_K], np.linalg.norm(expected, axis=1), rtol=1e-10)
    weights_K = torch.where(made.valid_N, torch.arange(1.0, len(valid_K) + 1, dtype=torch.float64), 0)
    wanted_D = weights_K.numpy()[valid_K] @ expected
    np.testing.assert_allclose(made.weighted_sum(weights_K).numpy(), wanted_D, rtol=1e-10, atol=1e-9)


def test_equal_rows_stay_at_distance_0():
    for text in ("nnm(f=3)", "clip(c=3)", "nnm(f=0)"):
        (transform,) = make_transforms(text)
        found_NN = transform.apply(updates(matrix(1e3)), replayed(UNIFORMS_U)).squared_distances_NN
        assert found_NN[4, 5] == 0
    assert (found_NN == 0).all()


@pytest.mark.parametrize("defense", ["fedavg", "krum", "multikrum", "median", "geomed", "rflbat", "trimmed_mean"])
@pytest.mark.parametrize("text", ["nnm(f=3)", "clip(c=4)", "nnm(f=2),clip(c=3)"])
def test_a_defense_judges_the_transformed_rows(defense, text):
    matrix_ND = matrix(0.5, broken=(2,))
    rows_ND = matrix_ND
    for transform in make_transforms(text):
        rows_ND = torch.where(
            finite_rows(rows_ND)[:, None], transform.apply(updates(rows_ND), replayed(UNIFORMS_U)).matrix_ND, torch.nan
        )
    sizes = list(range(1, N + 1))
    lazy = rflbat.aggregate(matrix_ND, defense, before=text, sizes=sizes)
    whole = rflbat.aggregate(rows_ND, defense, sizes=sizes)
    torch.testing.assert_close(lazy.update, whole.update, rtol=1e-8, atol=1e-9)
    assert not lazy.kept[2]
    assert lazy.trace["stage"][2] == 1
    assert float(lazy.weights.sum()) == pytest.approx(1)
    if text.startswith("clip"):
        assert torch.equal(lazy.kept, whole.kept)


def test_buckets_share_the_fate_of_their_clients():
    decision = rflbat.aggregate(matrix(), "krum", before="bucketing(s=2)", f=1)
    assert int(decision.kept.sum()) in (1, 2)
    assert set(decision.weights[decision.kept].tolist()) in ({0.5}, {1.0})


def test_a_dropped_malicious_update_reaches_no_row():
    matrix_ND = matrix(broken=(3,))
    for text in TRANSFORMS:
        assert rflbat.aggregate(matrix_ND, "median", before=text).update.isfinite().all()


@pytest.mark.parametrize("text", ["nnm", "bucketing(s=3)", "clip", "clip,nnm,bucketing"])
def test_nothing_waits_for_the_device(text):
    with waits_forbidden():
        given = torch.zeros(N, D, device="cuda")
        seen = Updates(
            given,
            torch.ones(N, dtype=torch.float64, device="cuda"),
            torch.arange(N, device="cuda"),
            torch.ones(N, dtype=torch.bool, device="cuda"),
        )
        composed = before(make_transforms(text), make_defense("krum", {}))
        uniforms_U = torch.zeros(composed.num_uniforms(N, D), dtype=torch.float64, device="cuda")
        decision = composed.apply(seen, composed.init(N, D, "cuda"), replayed(uniforms_U))
    assert decision.update.device.type == "cuda"
    assert decision.kept.shape == (N,)


@pytest.mark.parametrize(
    ("text", "defense", "message"),
    [
        ("nmn", "krum", "did you mean 'nnm'"),
        ("bucketing(s=0)", "krum", "s=0 is out of range"),
        ("clip(c=-1)", "krum", "c=-1"),
        ("nnm(f=-1)", "krum", "f=-1"),
        ("bucketing", "foolsgold", "remembers every client"),
        ("nnm", "deepsight", "feeds the clients' models"),
    ],
)
def test_mistakes(text, defense, message):
    with pytest.raises(UserError, match=message):
        before(make_transforms(text), make_defense(defense, {"memory": True} if defense == "foolsgold" else {}))
