"""The text encoder against torch's, and the adapters on it.

Axes: B batch, T tokens.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear

from rflbat.errors import UserError
from rflbat.models.lora import lora
from rflbat.models.transformer import transformer
from rflbat.randomness import generator

TOKENS, WORDS, CLASSES = 9, 23, 5


def texts():
    """Random words, padded in front; no text is empty."""
    x_BT = torch.randint(1, WORDS, (6, TOKENS), generator=torch.Generator().manual_seed(0))
    for row in range(6):
        x_BT[row, : row * TOKENS // 6] = 0
    return x_BT


class Plain(nn.Module):
    """The same network of torch's own parts."""

    def __init__(self):
        super().__init__()
        self.embedding, self.position = nn.Embedding(WORDS, 16), nn.Parameter(torch.empty(TOKENS, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 64, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, CLASSES)

    def forward(self, x):
        padding = x == 0
        hidden = self.norm(self.layers(self.embedding(x) + self.position, src_key_padding_mask=padding))
        return self.head((hidden * ~padding[..., None]).sum(1) / (~padding).sum(1, keepdim=True))


def theirs(name):
    """Name of the same parameter in torch's encoder."""
    name = name.replace("layers.", "layers.layers.").replace("out_proj", "self_attn.out_proj")
    return name.replace("in_proj.", "self_attn.in_proj_")


def test_it_is_torch_s_encoder():
    model, module, x_BT = transformer((TOKENS,), CLASSES, WORDS, width=16, heads=2), Plain(), texts()
    start_D = model.init(generator(0, "model"))
    named = {name: value.requires_grad_() for name, value in model.layout.views(start_D).items()}
    module.load_state_dict({theirs(name): value.detach() for name, value in named.items()})
    logits, expected = model.apply(named, x_BT), module(x_BT)
    torch.testing.assert_close(logits, expected)
    labels = torch.arange(6) % CLASSES
    cross_entropy(expected, labels).backward()
    gradients = torch.autograd.grad(cross_entropy(logits, labels), list(named.values()))
    own = dict(module.named_parameters())
    for name, gradient in zip(named, gradients, strict=True):
        torch.testing.assert_close(gradient, own[theirs(name)].grad, rtol=1e-4, atol=1e-6)


def test_an_empty_text_has_finite_logits_and_gradients():
    model = transformer((TOKENS,), CLASSES, WORDS, width=16, heads=2)
    leaf_D = model.init(generator(0, "model")).requires_grad_()
    logits = model.apply(model.named(leaf_D), torch.zeros(2, TOKENS, dtype=torch.int64))
    logits.square().sum().backward()
    assert logits.isfinite().all()
    assert leaf_D.grad.isfinite().all()


def test_padding_tokens_do_not_matter():
    model = transformer((TOKENS,), CLASSES, WORDS, width=16, heads=2)
    named, x_BT = model.layout.views(model.init(generator(0, "model"))), texts()
    logits = model.apply(named, x_BT)
    named["embedding.weight"][0] += 100
    torch.testing.assert_close(model.apply(named, x_BT), logits)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"width": 6, "heads": 4}, "heads=4 does not divide width=6"),
        ({"layers": 0}, "layers=0 is out of range"),
        ({"dropout": 1.0}, "dropout=1.0 is out of range"),
    ],
)
def test_sizes_are_checked(arguments, said):
    with pytest.raises(UserError, match=said):
        transformer((TOKENS,), CLASSES, WORDS, **arguments)
    with pytest.raises(UserError, match="model 'transformer' needs texts"):
        transformer((1, 8, 8), CLASSES)


def test_adapters_start_as_the_frozen_trunk_and_correct_it():
    model = lora((1, 4, 4), CLASSES, rank=2, alpha=6.0, width=7)
    named, x = model.named(model.init(generator(0, "model"))), torch.randn(6, 1, 4, 4)
    assert set(model.constants) == {f"hidden{i}.base.{part}" for i in (1, 2) for part in ("weight", "bias")}
    named["hidden1.lora_b"] = torch.randn(7, 2)
    hidden = x.flatten(1)
    for layer in ("hidden1", "hidden2"):
        correction = 3.0 * named[f"{layer}.lora_b"] @ named[f"{layer}.lora_a"]
        hidden = torch.relu(linear(hidden, named[f"{layer}.base.weight"] + correction, named[f"{layer}.base.bias"]))
    expected = linear(hidden, named["head.weight"], named["head.bias"])
    torch.testing.assert_close(model.apply(named, x), expected)


def test_the_trunk_depends_on_its_seed_alone():
    trunks = [lora((1, 4, 4), CLASSES, trunk_seed=seed).constants["hidden1.base.weight"] for seed in (0, 0, 1)]
    assert torch.equal(trunks[0], trunks[1])
    assert not torch.equal(trunks[0], trunks[2])
    assert trunks[0].abs().max() <= 0.25
    heads = [lora((1, 4, 4), CLASSES).init(generator(seed, "model")) for seed in (0, 1)]
    assert not torch.equal(*heads)


def test_adapters_on_the_encoder():
    model = lora((TOKENS,), CLASSES, WORDS, width=16)
    assert {"embedding.weight", "position", "norm.weight", "layers.1.in_proj.base.bias"} <= set(model.constants)
    adapted = 2 * (16 * 4 + 4 * 48 + 2 * 16 * 4 + 2 * 4 * (16 + 64))
    assert model.layout.size == adapted + 16 * CLASSES + CLASSES
    logits = model.apply(model.named(model.init(generator(0, "model"))), texts())
    assert logits.isfinite().all()
    for arguments, said in (({"rank": 0}, "rank=0"), ({"alpha": math.inf}, "alpha=inf"), ({"width": 6}, "heads=4")):
        with pytest.raises(UserError, match=said):
            lora((TOKENS,), CLASSES, WORDS, **arguments)
