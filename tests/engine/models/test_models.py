"""A battery over every model.

Legend of the suffixes: N clients, D parameters, B batch, C classes.
"""

import math

import numpy as np
import pytest
import torch

from rflbat.models.logistic import logistic
from rflbat.models.registry import MODELS
from rflbat.randomness import generator

SHAPE, CLASSES = (1, 28, 28), 7

every_model = pytest.mark.parametrize("name", MODELS)


def make(name):
    model = MODELS[name](SHAPE, CLASSES, WORDS[name])
    return model, model.init(generator(0, "model"))


def images(*lead):
    return torch.from_numpy(generator(1, "images").random((*lead, *SHAPE))).to(torch.float32)


@every_model
def test_the_start_is_a_drawn_flat_vector(name):
    model, start_D = make(name)
    assert model.name == name
    assert start_D.shape == (model.layout.size,)
    assert start_D.dtype == torch.float32
    assert start_D.isfinite().all()
    assert torch.equal(start_D, model.init(generator(0, "model")))
    assert not torch.equal(start_D, model.init(generator(1, "model")))


@every_model
def test_logits_are_of_batch_and_classes(name):
    model, start_D = make(name)
    for batch in (1, 13):
        assert model.apply(model.layout.views(start_D), images(batch)).shape == (batch, CLASSES)


@every_model
def test_a_sample_is_judged_by_itself(name):
    model, start_D = make(name)
    named, x_B = model.layout.views(start_D), images(13)
    logits_BC = model.apply(named, x_B)
    for sample in range(13):
        torch.testing.assert_close(model.apply(named, x_B[sample : sample + 1])[0], logits_BC[sample])


@every_model
def test_neither_samples_nor_parameters_are_written_to(name):
    model, start_D = make(name)
    x_B, kept_D = images(5), start_D.clone()
    before_B = x_B.clone()
    model.apply(model.layout.views(start_D), x_B)
    assert torch.equal(x_B, before_B)
    assert torch.equal(start_D, kept_D)


@every_model
def test_vmap_and_grad_go_through_the_model(name):
    model, start_D = make(name)
    params_ND = torch.stack([start_D, start_D.flip(0), -start_D])
    x_NB = images(3, 5)

    def loss(named, x_B):
        return model.apply(named, x_B).square().sum()

    together = torch.func.vmap(torch.func.grad(loss))(model.layout.views(params_ND), x_NB)
    for client in range(3):
        leaf_D = params_ND[client].clone().requires_grad_()
        loss(model.layout.views(leaf_D), x_NB[client]).backward()
        joined_D = model.layout.flatten({key: gradient[client] for key, gradient in together.items()})
        torch.testing.assert_close(joined_D, leaf_D.grad)
        assert joined_D.abs().max() > 0


@every_model
def test_every_parameter_matters(name):
    model, start_D = make(name)
    leaf_D = start_D.clone().requires_grad_()
    model.apply(model.layout.views(leaf_D), images(13)).square().sum().backward()
    for gradient in model.layout.views(leaf_D.grad).values():
        assert gradient.abs().max() > 0


@pytest.mark.parametrize(("shape", "classes"), [((1, 28, 28), 10), ((3, 5, 7), 2), ((63,), 4)])
def test_logistic_is_torch_linear(shape, classes):
    model = logistic(shape, classes)
    features = math.prod(shape)
    assert model.layout.size == (features + 1) * classes
    linear = torch.nn.Linear(features, classes)
    start_D = model.init(generator(0, "model"))
    torch.nn.utils.vector_to_parameters(start_D, linear.parameters())
    x = torch.randn(13, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.apply(model.layout.views(start_D), x), linear(x.flatten(1)).detach())


def test_logistic_starts_uniform_within_the_bound_of_torch_linear():
    start_D = logistic((1, 28, 28), 10).init(np.random.default_rng(0)).double()
    bound = 1 / 28
    assert start_D.abs().max() <= bound
    # Mean 0 and variance bound^2/3 of 7,850 draws, each within 4 standard deviations of its estimate.
    assert abs(start_D.mean()) < 4 * bound / math.sqrt(3 * 7850)
    assert abs(start_D.var() - bound**2 / 3) < 4 * bound**2 * math.sqrt(4 / 45 / 7850)
