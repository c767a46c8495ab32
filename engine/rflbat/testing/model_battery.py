"""Tests that every model passes, whatever its layers: ``pytest --rflbat-battery NAME``.

Axes: N clients, D parameters, B batch, C classes.
"""

import pytest
import torch
from torch import Tensor

from rflbat.clients import loop, vmap
from rflbat.clients.registry import BACKENDS
from rflbat.clients.step import split_named
from rflbat.models.base import Model
from rflbat.randomness import generator
from rflbat.testing.formats import CLASSES, VOCABULARY, model_case
from rflbat.testing.plugin import NAMED

BATTERY_OF: list[str] = []
"""Models under test; empty: those that ``--rflbat-battery`` names."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test for each model."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", metafunc.module.BATTERY_OF or metafunc.config.stash[NAMED]["model"])


def made(name: str) -> tuple[Model, Tensor]:
    """Build a model and its start vector."""
    _, model = model_case(name)
    return model, model.init(generator(0, "model"))


def near(start_D: Tensor) -> Tensor:
    """Move off a start at which parameters are exactly zero and hide others, such as those of adapters."""
    noise = torch.from_numpy(generator(2, "noise").standard_normal(len(start_D)))
    return start_D + 0.01 * noise.to(start_D.dtype)


def samples_of(name: str, *lead: int, seed: int = 1) -> Tensor:
    """Draw samples: images of values 0 to 1 in float32, or token ids in int64."""
    samples, _ = model_case(name)
    stream = generator(seed, "samples")
    if samples.encode is not None:
        return torch.from_numpy(stream.integers(0, VOCABULARY, (*lead, *samples.shape)))
    return torch.from_numpy(stream.random((*lead, *samples.shape))).to(torch.float32)


def as_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert images to a type; token ids stay."""
    return x.to(dtype) if x.is_floating_point() else x


def test_the_start_is_a_drawn_flat_vector(name: str) -> None:
    """One seed gives one start, another seed another."""
    model, start_D = made(name)
    assert start_D.shape == (model.layout.size,)
    assert start_D.dtype == torch.float32
    assert start_D.isfinite().all()
    assert torch.equal(start_D, model.init(generator(0, "model")))
    assert not torch.equal(start_D, model.init(generator(1, "model")))


def test_logits_are_of_batch_and_classes(name: str) -> None:
    """Also for one sample."""
    model, start_D = made(name)
    for batch in (1, 13):
        logits_BC = model.apply(model.named(start_D), samples_of(name, batch))
        assert logits_BC.shape == (batch, CLASSES)
        assert logits_BC.dtype == torch.float32


def test_a_sample_is_judged_by_itself(name: str) -> None:
    """No statistic of the batch enters the evaluation."""
    model, start_D = made(name)
    named, x_B = model.to(torch.float64).named(start_D.double()), as_type(samples_of(name, 13), torch.float64)
    logits_BC = model.apply(named, x_B)
    assert (logits_BC.std(0) > 0).all()
    for sample in range(13):
        torch.testing.assert_close(model.apply(named, x_B[sample : sample + 1])[0], logits_BC[sample])


def test_neither_samples_nor_parameters_are_written_to(name: str) -> None:
    """All clients of a chunk may share them."""
    model, start_D = made(name)
    x_B, kept_D = samples_of(name, 5), start_D.clone()
    before_B = x_B.clone()
    model.apply(model.named(start_D), x_B)
    assert torch.equal(x_B, before_B)
    assert torch.equal(start_D, kept_D)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vmap_and_grad_go_through_the_model(name: str, dtype: torch.dtype) -> None:
    """The gradients of all clients at once are those of each client alone."""
    model, start_D = made(name)
    model = model.to(dtype)
    others_D = (model.init(generator(seed, "model")) for seed in (1, 2))
    params_ND = torch.stack([start_D, *others_D]).to(dtype)
    x_NB = as_type(samples_of(name, 3, 5), dtype)

    def loss(trained: dict[str, Tensor], carried: dict[str, Tensor], x_B: Tensor) -> Tensor:
        return model.apply({**trained, **carried, **model.constants}, x_B).square().sum()

    parts = split_named(model, model.layout.views(params_ND))
    together = torch.func.vmap(torch.func.grad(loss))(*parts, x_NB)
    for client in range(3):
        trained, carried = split_named(model, model.layout.views(params_ND[client].clone()))
        leaves = {key: value.requires_grad_() for key, value in trained.items()}
        alone = torch.autograd.grad(loss(leaves, carried, x_NB[client]), list(leaves.values()))
        largest = max(float(gradient.abs().max()) for gradient in alone)
        near_zero = max(1, largest) * {torch.float32: 1e-4, torch.float64: 1e-7}[dtype]
        for key, gradient in zip(leaves, alone, strict=True):
            torch.testing.assert_close(together[key][client], gradient, rtol=1e-4, atol=near_zero)
        assert largest > 0


def test_every_parameter_matters(name: str) -> None:
    """Each trained parameter has a gradient, though not each number: a batch holds few of the words."""
    model, start_D = made(name)
    trained, carried = split_named(model, model.layout.views(near(start_D)))
    leaves = {key: value.requires_grad_() for key, value in trained.items()}
    logits_BC = model.apply({**leaves, **carried, **model.constants}, samples_of(name, 13))
    for gradient in torch.autograd.grad(logits_BC.square().sum(), list(leaves.values())):
        assert gradient.abs().max() > 0


def trained_rows(model: Model, start_D: Tensor, batch: tuple[Tensor, ...], steps: int, back_end: str) -> Tensor:
    """Train clients by plain gradient descent on one batch each; return their parameters and carried tensors."""
    batch = batch if model.draws else batch[:3]
    params_ND = start_D.repeat(len(batch[0]), 1)
    named = model.layout.views(params_ND)
    gradient = {"loop": loop, "vmap": vmap}[back_end].gradient(model)
    for _ in range(steps):
        for key, value in gradient(named, *batch).items():
            named[key].sub_(value, alpha=0.05)
    return params_ND


def batch_of(name: str, model: Model, padding: int = 0) -> tuple[Tensor, ...]:
    """Draw a batch for each of three clients; padding repeats the first sample of a client."""
    x_NB = as_type(samples_of(name, 3, 6), torch.float64)
    labels_NB = torch.from_numpy(generator(0, "labels").integers(0, CLASSES, (3, 6, *model.label_shape)))
    weight_NB = torch.ones(3, 6, dtype=torch.float64)
    x_NB, labels_NB = (torch.cat([each, each[:, :1].repeat_interleave(padding, 1)], 1) for each in (x_NB, labels_NB))
    weight_NB = torch.cat([weight_NB, weight_NB.new_zeros(3, padding)], 1)
    return x_NB, labels_NB, weight_NB, torch.tensor([3, 5, 7])


def test_vmap_and_loop_train_alike(name: str) -> None:
    """Several steps, carried tensors and dropout included."""
    model, start_D = made(name)
    model = model.to(torch.float64)
    rows = [trained_rows(model, start_D.double(), batch_of(name, model), 3, back_end) for back_end in ("vmap", "loop")]
    torch.testing.assert_close(*rows)
    for key, value in split_named(model, model.layout.views(rows[0] - start_D))[1].items():
        assert value.abs().max() > 0, f"training does not change {key}"


def test_padding_changes_nothing(name: str) -> None:
    """Samples of weight 0 enter neither the gradient nor a statistic of the batch."""
    model, start_D = made(name)
    model = model.to(torch.float64)
    rows = [trained_rows(model, start_D.double(), batch_of(name, model, padding), 2, "loop") for padding in (0, 3)]
    torch.testing.assert_close(*rows)


def test_its_back_end_on_a_cpu_is_known(name: str) -> None:
    """``auto`` chooses it."""
    assert made(name)[0].cpu_backend in set(BACKENDS) - {"auto"}


def test_a_written_out_gradient_is_that_of_autograd(name: str) -> None:
    """For models that declare one: the mean loss of a batch, whose padding has weight 0."""
    model, start_D = made(name)
    if model.gradient is None:
        pytest.skip("the model has no gradient of its own")
    params_ND = torch.stack([start_D, model.init(generator(1, "model"))]).double()
    x_NB = as_type(samples_of(name, 2, 6), torch.float64)
    labels_NB = torch.from_numpy(generator(0, "labels").integers(0, CLASSES, (2, 6)))
    weight_NB = torch.ones(2, 6, dtype=torch.float64)
    weight_NB[1, 4:] = 0
    own = model.gradient(model.layout.views(params_ND), x_NB, labels_NB, weight_NB)
    for client in range(2):
        leaf_D = params_ND[client].clone().requires_grad_()
        logits_BC = model.apply(model.layout.views(leaf_D), x_NB[client])
        loss_B = torch.nn.functional.cross_entropy(logits_BC, labels_NB[client], reduction="none")
        (gradient_D,) = torch.autograd.grad(loss_B @ weight_NB[client] / weight_NB[client].sum(), leaf_D)
        for key, alone in model.layout.views(gradient_D).items():
            torch.testing.assert_close(own[key][client], alone)
