"""DeepSight: its three features, and what it cannot judge."""

import numpy as np
import pytest
import torch

import rflbat
from rflbat.defenses.deepsight import division_differences, exceedings, output_layer, update_energies
from rflbat.defenses.server_view import ServerView
from rflbat.defenses.updates import Updates
from rflbat.errors import UserError
from rflbat.parameters import Layout
from rflbat.randomness import draw_source, uniforms_at


def test_energies_and_exceedings():
    """E = (3, 1, 0, 0) and (1, 1, 1, 1); the second client's four classes all exceed a quarter of the largest."""
    weight_NP = torch.tensor([[2.0, 0.5, 0.0, 0.0], [0.5, 1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]]).double()
    bias_NP = torch.tensor([[-1.0, 0.5, 0.0, 0.0], [0.5, 0.0, -1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]).double()
    energy_NP = update_energies(weight_NP, bias_NP)
    torch.testing.assert_close(energy_NP[0], torch.tensor([0.9, 0.1, 0.0, 0.0]).double())
    torch.testing.assert_close(energy_NP[1], torch.tensor([1.0, 1.0, 1.0, 9.0]).double() / 12)
    assert energy_NP[2].tolist() == [0.0] * 4
    # Thresholds are a quarter of the largest: 0.225 and 0.1875.
    assert exceedings(energy_NP).tolist() == [1.0, 1.0, 0.0]


def test_division_differences_are_mean_ratios_of_probabilities(monkeypatch):
    """In pieces, with a number of samples that no piece divides."""
    monkeypatch.setattr("rflbat.defenses.deepsight.PIECE", 7)
    rng = np.random.default_rng(0)
    updates_ND, params_D = rng.standard_normal((5, 12)), rng.standard_normal(12)

    def logits(row_D, x):
        return torch.as_tensor(row_D[:8]).view(4, 2) @ x + torch.as_tensor(row_D[8:])

    def forward(matrix_ND, x_B, of_clients=True):
        return torch.stack([torch.stack([logits(params_D + row_D.numpy(), x) for x in x_B]) for row_D in matrix_ND])

    matrix_ND = torch.from_numpy(updates_ND)
    seen = Updates(
        matrix_ND,
        torch.ones(5).double(),
        torch.arange(5),
        torch.tensor([True, True, False, True, True]),
        server=ServerView(forward=forward, sample_shape=(2,)),
    )
    found = division_differences(seen, draw_source(3, "defense", 0, "cpu"), 17, 2)
    for seed, key in enumerate(draw_source(3, "defense", 0, "cpu")(2)):
        x_B = uniforms_at(key, 0, 34).view(17, 2)
        base = torch.stack([logits(params_D, x).softmax(0) for x in x_B])
        for client in (0, 1, 3, 4):
            own = torch.stack([logits(params_D + updates_ND[client], x).softmax(0) for x in x_B])
            torch.testing.assert_close(found[seed, client], (own / base).mean(0))
    assert not found[:, 2].any()


def test_noise_is_uniform_and_differs_by_key():
    one, other = (uniforms_at(torch.tensor(key).double(), 0, 100_000) for key in (0.1, 0.100001))
    for drawn in (one, other):
        counts = torch.histc(drawn, 20, 0, 1)
        assert float(((counts - 5000) ** 2 / 5000).sum()) < 45  # 19 degrees of freedom: p = 0.0007
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.02
    assert abs(float(torch.corrcoef(torch.stack([one[1:], one[:-1]]))[0, 1])) < 0.02


@pytest.mark.parametrize(
    "shapes", [{"w": (3, 4)}, {"w": (3, 4), "b": (5,)}, {"b": (3,), "w": (3, 4)}, {"w": (3, 4, 1), "b": (3,)}]
)
def test_a_model_without_an_output_layer_is_refused(shapes):
    with pytest.raises(UserError, match="deepsight needs an output layer, a weight matrix followed by its bias"):
        output_layer(Layout(shapes))


def test_weights_may_be_stored_either_way():
    rng = np.random.default_rng(0)
    rows, found = rng.standard_normal((7, 16)), []
    turned = np.stack([np.concatenate([row[:12].reshape(4, 3).T.ravel(), row[12:]]) for row in rows])
    kinds = ((rows, (4, 3), lambda named, x: x @ named["w"].T + named["b"]),)
    kinds += ((turned, (3, 4), lambda named, x: x @ named["w"] + named["b"]),)
    for given, shape, outputs in kinds:
        known = {"params": given[-1], "layers": {"w": shape, "b": (4,)}, "outputs": outputs, "sample_shape": (3,)}
        decision = rflbat.aggregate(given[:-1], "deepsight", samples=20, **known)
        found.append((decision.trace["exceedings"].tolist(), decision.trace["cluster"].tolist()))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"samples": 0}, "deepsight: samples=0 is out of range; allowed: at least 1"),
        ({"seeds": 0}, "deepsight: seeds=0"),
        ({"tau": 0.0}, "deepsight: tau=0.0 is out of range; allowed: above 0, at most 1"),
        ({"min_cluster_size": 1}, "deepsight: min_cluster_size=1 is out of range; allowed: at least 2"),
        ({"outliers": "apart"}, "deepsight: outliers='apart'.*; allowed: together, alone"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(UserError, match=message):
        rflbat.aggregate(np.ones((3, 2)), "deepsight", **parameters)
