"""ResNet-18 against torchvision's, and trained as a plain module.

Axes: D columns.
"""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import cross_entropy

from rflbat.clients.backend import Backend
from rflbat.clients.optimizer import Optimizer
from rflbat.errors import UserError
from rflbat.models.resnet import ResNet18, groups, resnet
from rflbat.randomness import generator
from tests.engine.models.inputs import random_samples


def test_at_full_width_it_is_torchvision_s():
    theirs, own = torchvision.models.resnet18(num_classes=7), ResNet18(3, 7, 64, nn.BatchNorm2d, large=True)
    assert {name: each.shape for name, each in theirs.state_dict().items()} == {
        name: each.shape for name, each in own.state_dict().items()
    }
    own.load_state_dict(theirs.state_dict())
    x = random_samples((3, 70, 70), 0, 3)
    torch.testing.assert_close(own(x), theirs(x))
    deviation = [
        each["layer3.0.conv1.weight"].std()
        for each in (theirs.state_dict(), ResNet18(3, 7, 64, nn.BatchNorm2d, large=True).state_dict())
    ]
    torch.testing.assert_close(*deviation, rtol=0.02, atol=0)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_it_trains_as_the_plain_module(norm):
    shape, optimizer = (1, 8, 8), Optimizer(3, 0.05, 0.9, 1e-3)
    model = resnet(shape, 5, width=4, norm=norm)
    start_D = model.init(generator(0, "model"))
    x, labels = random_samples(shape, 0, 2, 3, 6), torch.arange(36).view(2, 3, 6) % 5
    normalise = nn.BatchNorm2d if norm == "batch" else lambda size: nn.GroupNorm(groups(size), size)
    expected = []
    for client in range(2):
        module = ResNet18(1, 5, 4, normalise, large=False)
        named = dict([*module.named_parameters(), *module.named_buffers()])
        with torch.no_grad():
            for name, value in model.layout.views(start_D).items():
                named[name].copy_(value)
        sgd = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        for step in range(3):
            sgd.zero_grad()
            cross_entropy(module(x[client, step]), labels[client, step]).backward()
            sgd.step()
        expected.append(model.layout.flatten({name: value.detach() for name, value in named.items()}))
    for back_end in (Backend("vmap", 2, 1, ""), Backend("loop", 1, 2, "")):
        updates_ND = torch.full((2, model.layout.size), torch.nan)
        back_end.train(
            updates_ND,
            lambda rows: start_D.expand(rows.stop - rows.start, -1),
            model,
            lambda rows, step: (x[rows, step], labels[rows, step], torch.ones(labels[rows, step].shape)),
            optimizer,
        )
        torch.testing.assert_close(start_D + updates_ND, torch.stack(expected), rtol=1e-3, atol=5e-4)


@pytest.mark.parametrize("channels", [1, 3, 4, 6, 8, 10, 12, 64, 192, 512])
def test_groups_divide_the_channels(channels):
    assert channels % groups(channels) == 0
    assert 1 <= groups(channels) <= 32


def test_the_stem_follows_the_size_of_the_image():
    shapes = {
        stem: resnet((3, 65, 20), 5, width=2, stem=stem).layout.shapes["conv1.weight"] for stem in ("auto", "large")
    }
    assert shapes == {"auto": (2, 3, 7, 7), "large": (2, 3, 7, 7)}
    assert resnet((3, 64, 64), 5, width=2).layout.shapes["conv1.weight"] == (2, 3, 3, 3)


@pytest.mark.parametrize(
    ("shape", "words", "arguments", "said"),
    [
        ((13,), 63, {}, "model 'resnet' needs images; got texts"),
        ((13,), 0, {}, r"model 'resnet' needs images; got samples of shape \(13,\)"),
        ((1, 8, 8), 0, {"width": 0}, "width=0 is out of range"),
        ((1, 8, 8), 0, {"norm": "layer"}, "norm='layer'; allowed: batch, group"),
        ((1, 8, 8), 0, {"stem": "tiny"}, "stem='tiny'; allowed: auto, small, large"),
    ],
)
def test_what_does_not_fit_is_refused(shape, words, arguments, said):
    with pytest.raises(UserError, match=said):
        resnet(shape, 5, words, **arguments)
