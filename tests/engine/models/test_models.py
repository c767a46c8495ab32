"""A battery over every model, and the logistic one.

Legend of the suffixes: N clients, D parameters, B batch, C classes.
"""

import math

import numpy as np
import pytest
import torch

from rflbat.clients.backend import BACKENDS
from rflbat.errors import UserError
from rflbat.models.logistic import logistic
from rflbat.models.registry import MODELS
from rflbat.randomness import generator
from tests.engine.models.inputs import CLASSES, WORDS, assert_uniform, make, samples_of

every_model = pytest.mark.parametrize("name", MODELS)


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
        logits_BC = model.apply(model.layout.views(start_D), samples_of(name, batch))
        assert logits_BC.shape == (batch, CLASSES)
        assert logits_BC.dtype == torch.float32


@every_model
def test_a_sample_is_judged_by_itself(name):
    model, start_D = make(name)
    named, x_B = model.layout.views(start_D.double()), samples_of(name, 13)
    x_B = x_B if WORDS[name] else x_B.double()
    logits_BC = model.apply(named, x_B)
    assert (logits_BC.std(0) > 0).all()
    for sample in range(13):
        torch.testing.assert_close(model.apply(named, x_B[sample : sample + 1])[0], logits_BC[sample])


@every_model
def test_neither_samples_nor_parameters_are_written_to(name):
    model, start_D = make(name)
    x_B, kept_D = samples_of(name, 5), start_D.clone()
    before_B = x_B.clone()
    model.apply(model.layout.views(start_D), x_B)
    assert torch.equal(x_B, before_B)
    assert torch.equal(start_D, kept_D)


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vmap_and_grad_go_through_the_model(name, dtype):
    model, start_D = make(name)
    others_D = (model.init(generator(seed, "model")) for seed in (1, 2))
    params_ND = torch.stack([start_D, *others_D]).to(dtype)
    x_NB = samples_of(name, 3, 5) if WORDS[name] else samples_of(name, 3, 5).to(dtype)

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
    model.apply(model.layout.views(leaf_D), samples_of(name, 13)).square().sum().backward()
    for gradient in model.layout.views(leaf_D.grad).values():
        assert gradient.abs().max() > 0  # not of each number: a batch holds few of the words


@every_model
def test_the_back_end_of_a_cpu_is_one_there_is(name):
    assert make(name)[0].cpu_backend in set(BACKENDS) - {"auto"}


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
    assert_uniform(logistic((1, 28, 28), 10).init(np.random.default_rng(0)), 1 / 28)


def test_logistic_refuses_texts():
    with pytest.raises(UserError) as caught:
        logistic((100,), 5, 63)
    assert str(caught.value) == "model 'logistic' needs numeric features; got texts; allowed for texts: lstm"
