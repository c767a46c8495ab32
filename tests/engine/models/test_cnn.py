"""The convolutional network against torch.nn.

Legend of the suffixes: D parameters, B batch, C classes.
"""

import pytest
import torch
from torch.nn.functional import cross_entropy

from rflbat.errors import UserError
from rflbat.models.cnn import cnn
from rflbat.randomness import generator
from tests.engine.models.inputs import assert_uniform, random_samples
from tests.engine.models.plain import flat_gradient, plain_cnn, with_parameters

FEMNIST, CLASSES = (1, 28, 28), 62
FORMATS = [(FEMNIST, CLASSES), ((3, 9, 13), 5), ((2, 4, 7), 2)]
every_format = pytest.mark.parametrize(("shape", "classes"), FORMATS)


def drawings(shape, count):
    """Half of them noise, half a stroke on blank paper, where neighbouring pixels of the convolutions are equal."""
    x = random_samples(shape, 0, count)
    x[::2, :, 2:] = 1
    return x


def test_the_paper_s_network_has_214590_parameters():
    assert cnn(FEMNIST, CLASSES).layout.size == 214_590
    assert sum(each.numel() for each in plain_cnn(FEMNIST, CLASSES, device="meta").parameters()) == 214_590


@every_format
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_plain_network(shape, classes, dtype):
    model = cnn(shape, classes)
    start_D = model.init(generator(0, "model")).to(dtype)
    x, labels = drawings(shape, 13).to(dtype), torch.arange(13) % classes
    module = with_parameters(plain_cnn(shape, classes, dtype=dtype), start_D)
    expected_BC = module(x)
    cross_entropy(expected_BC, labels).backward()

    leaf_D = start_D.requires_grad_()
    logits_BC = model.apply(model.layout.views(leaf_D), x)
    cross_entropy(logits_BC, labels).backward()
    torch.testing.assert_close(logits_BC, expected_BC)
    torch.testing.assert_close(leaf_D.grad, flat_gradient(module))


def test_the_start_is_uniform_within_the_bounds_of_torch():
    model = cnn(FEMNIST, CLASSES)
    named = model.layout.views(model.init(generator(0, "model")))
    bounds = {"conv1": 1 / 7, "conv2": 1 / 288**0.5, "linear": 1 / 56}
    assert {name.partition(".")[0] for name in named} == set(bounds)
    for name, drawn in named.items():
        assert_uniform(drawn, bounds[name.partition(".")[0]])


def test_channels_count_in_the_bound():
    model = cnn((3, 9, 13), 5)
    named = model.layout.views(model.init(generator(0, "model")))
    assert_uniform(named["conv1.weight"], 1 / 147**0.5)
    assert_uniform(named["linear.weight"], 1 / 384**0.5)


@pytest.mark.parametrize("shape", [(100,), (28, 28), (1, 3, 28), (1, 28, 3), (1, 1, 28, 28)])
def test_what_is_no_image_of_4_by_4_is_refused(shape):
    with pytest.raises(UserError) as caught:
        cnn(shape, 5, 63 if len(shape) == 1 else 0)
    assert str(caught.value) == (f"model 'cnn' needs images of at least 4 x 4 pixels; got samples of shape {shape}")


def test_the_smallest_image():
    model = cnn((1, 4, 4), 2)
    assert model.layout.shapes["linear.weight"] == (2, 64)
    assert model.apply(model.layout.views(model.init(generator(0, "model"))), torch.zeros(3, 1, 4, 4)).shape == (3, 2)
