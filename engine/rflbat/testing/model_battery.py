"""Tests that every model passes, whatever its layers: ``pytest --rflbat-battery NAME``.

Axes: N clients, D parameters, B batch, C classes.
"""

import pytest
import torch
from torch import Tensor

from rflbat.clients.registry import BACKENDS
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
        logits_BC = model.apply(model.layout.views(start_D), samples_of(name, batch))
        assert logits_BC.shape == (batch, CLASSES)
        assert logits_BC.dtype == torch.float32


def test_a_sample_is_judged_by_itself(name: str) -> None:
    """No statistic of the batch enters, since short batches are padded."""
    model, start_D = made(name)
    named, x_B = model.layout.views(start_D.double()), as_type(samples_of(name, 13), torch.float64)
    logits_BC = model.apply(named, x_B)
    assert (logits_BC.std(0) > 0).all()
    for sample in range(13):
        torch.testing.assert_close(model.apply(named, x_B[sample : sample + 1])[0], logits_BC[sample])


def test_neither_samples_nor_parameters_are_written_to(name: str) -> None:
    """All clients of a chunk may share them."""
    model, start_D = made(name)
    x_B, kept_D = samples_of(name, 5), start_D.clone()
    before_B = x_B.clone()
    model.apply(model.layout.views(start_D), x_B)
    assert torch.equal(x_B, before_B)
    assert torch.equal(start_D, kept_D)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vmap_and_grad_go_through_the_model(name: str, dtype: torch.dtype) -> None:
    """The gradients of all clients at once are those of each client alone."""
    model, start_D = made(name)
    others_D = (model.init(generator(seed, "model")) for seed in (1, 2))
    params_ND = torch.stack([start_D, *others_D]).to(dtype)
    x_NB = as_type(samples_of(name, 3, 5), dtype)

    def loss(named: dict[str, Tensor], x_B: Tensor) -> Tensor:
        return model.apply(named, x_B).square().sum()

    together = torch.func.vmap(torch.func.grad(loss))(model.layout.views(params_ND), x_NB)
    for client in range(3):
        leaf_D = params_ND[client].clone().requires_grad_()
        (gradient_D,) = torch.autograd.grad(loss(model.layout.views(leaf_D), x_NB[client]), leaf_D)
        for key, alone in model.layout.views(gradient_D).items():
            torch.testing.assert_close(together[key][client], alone)
        assert gradient_D.abs().max() > 0


def test_every_parameter_matters(name: str) -> None:
    """Each named parameter has a gradient, though not each number: a batch holds few of the words."""
    model, start_D = made(name)
    leaf_D = start_D.clone().requires_grad_()
    loss = model.apply(model.layout.views(leaf_D), samples_of(name, 13)).square().sum()
    (gradient_D,) = torch.autograd.grad(loss, leaf_D)
    for gradient in model.layout.views(gradient_D).values():
        assert gradient.abs().max() > 0


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
