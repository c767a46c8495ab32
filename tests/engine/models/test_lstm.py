"""The recurrent network against torch.nn.

Legend of the suffixes: D parameters, B batch, T tokens, C classes.
"""

import pytest
import torch
from torch.nn.functional import cross_entropy

from rflbat.errors import UserError
from rflbat.models.lstm import lstm
from rflbat.randomness import generator
from tests.engine.models.inputs import assert_uniform, random_samples
from tests.engine.models.plain import PlainLSTM, flat_gradient, with_parameters

CLASSES, WORDS = 5, 63


def texts(tokens, count):
    """Random words, padded in front by 0 in three of four texts."""
    x_BT = random_samples((tokens,), WORDS, count)
    for row in range(count):
        x_BT[row, : row % 4 * tokens // 4] = 0
    return x_BT


def test_the_paper_s_network_has_5766089_parameters():
    assert lstm((100,), 5, 56_785).layout.size == 5_766_089
    assert sum(each.numel() for each in PlainLSTM(56_785, 5, device="meta").parameters()) == 5_766_089


@pytest.mark.parametrize("tokens", [1, 2, 11, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_plain_network(tokens, dtype):
    model = lstm((tokens,), CLASSES, WORDS)
    start_D = model.init(generator(0, "model")).to(dtype)
    x_BT, labels = texts(tokens, 13), torch.arange(13) % CLASSES
    module = with_parameters(PlainLSTM(WORDS, CLASSES, dtype=dtype), start_D)
    expected_BC = module(x_BT)
    cross_entropy(expected_BC, labels).backward()

    leaf_D = start_D.requires_grad_()
    logits_BC = model.apply(model.layout.views(leaf_D), x_BT)
    cross_entropy(logits_BC, labels).backward()
    torch.testing.assert_close(logits_BC, expected_BC)
    torch.testing.assert_close(leaf_D.grad, flat_gradient(module))


def test_words_that_do_not_occur_have_no_gradient():
    model = lstm((11,), CLASSES, WORDS)
    leaf_D = model.init(generator(0, "model")).requires_grad_()
    x_BT = texts(11, 3)
    model.apply(model.layout.views(leaf_D), x_BT).square().sum().backward()
    moved = model.layout.views(leaf_D.grad)["embedding.weight"].abs().amax(1) > 0
    assert moved.nonzero().flatten().tolist() == x_BT.unique().tolist()
    assert not moved.all()


def test_embeddings_start_normal_and_the_rest_within_the_bounds_of_torch():
    model = lstm((100,), CLASSES, 601)
    named = model.layout.views(model.init(generator(0, "model")))
    table = named.pop("embedding.weight").double()
    count = table.numel()
    assert abs(table.mean()) < 4 / count**0.5
    assert abs(table.square().mean() - 1) < 4 * (2 / count) ** 0.5
    assert abs((table.abs() > 1.959964).double().mean() - 0.05) < 4 * (0.05 * 0.95 / count) ** 0.5
    bounds = {"lstm": 1 / 10, "hidden": 1 / 10, "linear": 1 / 8}
    assert {name.partition(".")[0] for name in named} == set(bounds)
    for name, drawn in named.items():
        assert_uniform(drawn, bounds[name.partition(".")[0]])


@pytest.mark.parametrize("shape", [(1, 28, 28), (100,)])
def test_what_has_no_vocabulary_is_refused(shape):
    with pytest.raises(UserError) as caught:
        lstm(shape, 5)
    assert str(caught.value) == f"model 'lstm' needs texts; got samples of shape {shape} without a vocabulary"
