"""The logistic model."""

import math

import numpy as np
import pytest
import torch

from rflbat.errors import UserError
from rflbat.models.logistic import logistic
from rflbat.randomness import generator
from tests.engine.models.inputs import assert_uniform


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
