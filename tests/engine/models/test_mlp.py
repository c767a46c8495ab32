"""The multilayer perceptron against torch.nn.

Axes: D parameters, B batch, C classes.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rflbat.errors import UserError
from rflbat.models.mlp import mlp
from rflbat.models.registry import make_model
from rflbat.randomness import generator
from tests.engine.models.inputs import assert_uniform, random_samples
from tests.engine.models.plain import flat_gradient, with_parameters

DIGITS = (1, 28, 28)


def plain(shape, classes, hidden, **options):
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), hidden, **options),
        nn.ReLU(),
        nn.Linear(hidden, hidden, **options),
        nn.ReLU(),
        nn.Linear(hidden, classes, **options),
    )


def test_the_paper_s_network_has_199210_parameters():
    assert mlp(DIGITS, 10).layout.size == 199_210
    assert sum(each.numel() for each in plain(DIGITS, 10, 200, device="meta").parameters()) == 199_210


@pytest.mark.parametrize(
    ("shape", "classes", "hidden"), [(DIGITS, 10, 200), ((3, 5, 7), 2, 13), ((63,), 4, 5), ((1, 4, 4), 3, 1)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_plain_network(shape, classes, hidden, dtype):
    model = mlp(shape, classes, hidden=hidden)
    start_D = model.init(generator(0, "model")).to(dtype)
    x, labels = random_samples(shape, 0, 13).to(dtype), torch.arange(13) % classes
    module = with_parameters(plain(shape, classes, hidden, dtype=dtype), start_D)
    expected_BC = module(x)
    cross_entropy(expected_BC, labels).backward()

    leaf_D = start_D.requires_grad_()
    logits_BC = model.apply(model.layout.views(leaf_D), x)
    cross_entropy(logits_BC, labels).backward()
    torch.testing.assert_close(logits_BC, expected_BC)
    torch.testing.assert_close(leaf_D.grad, flat_gradient(module))


def test_the_start_is_uniform_within_the_bounds_of_torch():
    model = mlp(DIGITS, 62)
    named = model.layout.views(model.init(generator(0, "model")))
    bounds = {"hidden1": 1 / 28, "hidden2": 1 / 200**0.5, "linear": 1 / 200**0.5}
    assert {name.partition(".")[0] for name in named} == set(bounds)
    for name, drawn in named.items():
        assert_uniform(drawn, bounds[name.partition(".")[0]])


def test_the_width_is_a_model_argument():
    assert make_model("mlp", DIGITS, 10, 0, {"hidden": "50"}).layout.shapes["hidden2.weight"] == (50, 50)


@pytest.mark.parametrize("hidden", [0, -3])
def test_a_layer_without_units_is_refused(hidden):
    with pytest.raises(UserError) as caught:
        make_model("mlp", DIGITS, 10, 0, {"hidden": hidden})
    assert str(caught.value) == f"model 'mlp': hidden={hidden} is out of range; allowed: at least 1 unit"


def test_texts_are_refused():
    with pytest.raises(UserError) as caught:
        mlp((100,), 5, 63)
    assert str(caught.value) == "model 'mlp' needs numeric features; got texts; allowed for texts: lstm"
