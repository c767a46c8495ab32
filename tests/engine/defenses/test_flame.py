"""FLAME: what is special about it."""

import numpy as np
import pytest
import torch

import rflbat
from rflbat.defenses.flame import model_distances, update_distances
from rflbat.defenses.norm_clipping import normals
from rflbat.defenses.server_view import ServerView
from rflbat.defenses.updates import Updates
from rflbat.errors import UserError
from rflbat.randomness import draw_source
from rflbat_kernels import finite_rows
from tests.engine.defenses.definitions import angles

PARAMETERS = 300


def seen(matrix_ND, params_D):
    clients = len(matrix_ND)
    return Updates(
        matrix_ND,
        torch.ones(clients).double(),
        torch.arange(clients),
        finite_rows(matrix_ND),
        server=ServerView(params_D=params_D),
    )


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6])
def test_distances_of_models_that_hardly_differ_keep_their_digits(size):
    """``1 - cos`` from inner products would lose all digits where the updates are 1e-6 of the model."""
    rng = np.random.default_rng(0)
    matrix_ND, params_D = size * rng.standard_normal((9, PARAMETERS)), rng.standard_normal(PARAMETERS)
    found = model_distances(seen(torch.from_numpy(matrix_ND), torch.from_numpy(params_D)))
    wanted = angles(list(matrix_ND), params_D)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)
    assert torch.equal(found, found.T)


def test_distances_of_updates():
    updates_ND = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 0.0]]).double()
    wanted = [[0, 0, 1, 2, 1], [0, 0, 1, 2, 1], [1, 1, 0, 1, 1], [2, 2, 1, 0, 1], [1, 1, 1, 1, 0]]
    torch.testing.assert_close(update_distances(seen(updates_ND, None)), torch.tensor(wanted).double())


def test_the_noise_has_the_deviation_of_lambda_times_the_median_norm():
    rng = np.random.default_rng(1)
    updates_ND = rng.standard_normal((10, 20_001))
    known = {"params": rng.standard_normal(20_001)}
    still, moved = (rflbat.aggregate(updates_ND, "flame", noise=noise, **known).update for noise in (0.0, 0.01))
    deviation = 0.01 * np.median(np.linalg.norm(updates_ND, axis=1))
    noise = (moved - still) / deviation
    torch.testing.assert_close(noise, normals(draw_source(0, "defense", 0, "cpu"), 20_001))
    assert abs(float(noise.std()) - 1) < 0.02


def test_the_bound_is_the_median_of_all_or_of_the_kept():
    updates_ND = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.1], [0.0, -50.0], [0.0, 60.0]])
    means = {
        bound: rflbat.aggregate(updates_ND, "flame", vector="update", noise=0, bound=bound) for bound in ("all", "kept")
    }
    assert means["all"].kept.tolist() == [True, True, True, False, False]
    assert float(means["all"].update[0]) == pytest.approx((1 + 2 + 3) / 3, rel=1e-6)
    assert float(means["kept"].update[0]) == pytest.approx((1 + 2 + 2) / 3, rel=1e-3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"noise": -1.0}, "flame: noise=-1.0 is out of range; allowed: finite numbers of at least 0"),
        ({"vector": "models"}, "flame: vector='models'; did you mean 'model'"),
        ({"bound": "some"}, "flame: bound='some'.*; allowed: all, kept"),
        ({"min_samples": 0}, "flame: min_samples=0 is out of range; allowed: at least 1"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(UserError, match=message):
        rflbat.aggregate(np.ones((3, 2)), "flame", params=np.ones(2), **parameters)
