"""Local rules: all back ends against a loop over torch.autograd, in which each rule is written as its definition.

Legend of the suffixes: N clients, D parameters.
"""

import dataclasses

import numpy as np
import pytest
import torch

from rflbat.clients.batches import draw_batches, steps_of_epochs
from rflbat.clients.optimizer import Optimizer
from rflbat.clients.registry import LR_SCHEDULES
from rflbat.clients.rules.base import LocalRule
from rflbat.clients.rules.registry import LOCAL_RULES, make_rule
from rflbat.errors import UserError
from tests.engine.clients.test_training import (
    BACKENDS,
    BATCH,
    CLASSES,
    MALICIOUS,
    MODEL,
    PROBLEM,
    SIZES,
    STEPS,
    N,
    poisoned_batches,
)
from tests.engine.clients.training import torch_steps

RULES = {
    "fedprox": {"mu": 0.7},
    "pgd": {"radius": 0.5},
    "pgd-every-4": {"radius": 0.1, "every": 4},
    "pgd-relative": {"radius": 0.03, "relative": True},
    "constrain_and_scale": {"alpha": 0.6},
    "constrain_and_scale-squared": {"alpha": 0.6, "distance": "squared"},
    "constrain_and_scale-cosine": {"alpha": 0.4, "distance": "cosine"},
}


def rule_of(case: str) -> LocalRule:
    return make_rule(case.partition("-")[0], RULES[case])


def loss_of(case, loss, params_D, start_D):
    """The loss of a batch under a rule."""
    given, move_D = RULES[case], params_D - start_D
    if case == "fedprox":
        return loss + given["mu"] / 2 * (move_D**2).sum()
    if not case.startswith("constrain"):
        return loss
    distance = {
        "squared": (move_D**2).sum(),
        "cosine": 1 - (params_D * start_D).sum() / (params_D.norm() * start_D.norm()),
        # The norm has no gradient at 0; its subgradient there is 0.
        "norm": move_D.norm() if bool(move_D.any()) else 0,
    }[given.get("distance", "norm")]
    return given["alpha"] * loss + (1 - given["alpha"]) * distance


def projected(case, params_D, start_D, step):
    given = RULES[case]
    if not case.startswith("pgd") or (step + 1) % given.get("every", 1):
        return params_D
    radius = given["radius"] * (np.linalg.norm(start_D) if given.get("relative") else 1)
    norm = np.linalg.norm(params_D - start_D)
    return params_D if norm <= radius else start_D + (params_D - start_D) * radius / norm


def by_loop(case, optimizer):
    rows = []
    for client in range(N):
        linear = torch.nn.Linear(MODEL.layout.shapes["weight"][1], CLASSES, dtype=torch.float64)
        start_D = PROBLEM.params_ND[client].clone()
        torch.nn.utils.vector_to_parameters(start_D.clone(), linear.parameters())
        take_step = torch_steps(linear, optimizer)
        for step, batch in enumerate(poisoned_batches(PROBLEM, client)):
            x = torch.stack([torch.from_numpy(sample.image).flatten() for sample in batch])
            labels = torch.tensor([sample.label for sample in batch])
            params_D = torch.cat([each.reshape(-1) for each in linear.parameters()])
            take_step(loss_of(case, torch.nn.functional.cross_entropy(linear(x), labels), params_D, start_D))
            moved_D = torch.nn.utils.parameters_to_vector(linear.parameters()).detach().numpy()
            kept_D = torch.from_numpy(projected(case, moved_D, start_D.numpy(), step))
            torch.nn.utils.vector_to_parameters(kept_D.clone(), linear.parameters())
        rows.append(torch.nn.utils.parameters_to_vector(linear.parameters()).detach().numpy())
    return np.stack(rows)


@pytest.mark.parametrize("case", RULES)
@pytest.mark.parametrize(
    "optimizer", [Optimizer(STEPS, 0.3, 0.9, 0.05), Optimizer(STEPS, 0.3, clip_norm=0.3)], ids=["momentum", "clipped"]
)
def test_back_ends_equal_the_definition(case, optimizer):
    expected_ND = by_loop(case, optimizer)
    plain_ND = PROBLEM.trained("loop", optimizer).numpy()
    assert abs(plain_ND - expected_ND).max() > 1e-5
    for backend in BACKENDS:
        trained_ND = PROBLEM.trained(backend, dataclasses.replace(optimizer, rule=rule_of(case))).numpy()
        np.testing.assert_allclose(trained_ND, expected_ND, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", [case for case in RULES if rule_of(case).moves_only])
def test_a_rule_that_reads_moves_leaves_columns_alone_that_do_not_move(case):
    rule = rule_of(case)
    start_ND = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    params_ND, gradient_ND = start_ND.clone(), torch.zeros(3, 6, dtype=torch.float64)
    params_ND[:, :4] += 1
    wide_ND, wide_gradient_ND = params_ND.clone(), gradient_ND.clone()
    for params, start, gradient in ((params_ND[:, :4], start_ND[:, :4], gradient_ND[:, :4]),) * 1 + (
        (wide_ND, start_ND, wide_gradient_ND),
    ):
        if rule.gradient is not None:
            rule.gradient(gradient, params, start)
        if rule.project is not None:
            rule.project(params, start, 3)
    torch.testing.assert_close(wide_ND, params_ND)
    torch.testing.assert_close(wide_gradient_ND, gradient_ND)


def test_a_client_with_fewer_steps_ends_with_its_last_one():
    epochs = 2
    steps = [steps_of_epochs(size, epochs, BATCH, drop_last=False) for size in SIZES]
    assert min(steps) < max(steps)
    samples = [np.arange(sum(SIZES[:client]), sum(SIZES[: client + 1])) for client in range(N)]

    def drawn(counts):
        stream = np.random.default_rng(5)
        return draw_batches(samples, MALICIOUS, stream, steps=counts, batch=BATCH, poison_fraction=0.5)

    for rule in (None, rule_of("fedprox"), rule_of("pgd")):
        for backend in ("loop", "vmap3", "analytic3, 2 workers"):
            ragged = Optimizer(max(steps), 0.3, 0.9, 0.05, rule=rule, ragged=True)
            trained_ND = PROBLEM.trained(backend, ragged, batches=drawn(steps))
            assert trained_ND.isfinite().all()
            for client, count in enumerate(steps):
                # The draws of the other clients are the same, since each client has its own number of steps in both.
                own = Optimizer(count, 0.3, 0.9, 0.05, rule=rule, ragged=True)
                alone_ND = PROBLEM.trained("loop", own, batches=drawn(steps))
                torch.testing.assert_close(trained_ND[client], alone_ND[client], rtol=0, atol=1e-13)


def test_batches_of_a_client_do_not_depend_on_the_form_of_its_number_of_steps():
    samples = [np.arange(7), np.arange(7, 20)]
    one, other = (
        draw_batches(samples, MALICIOUS[:2], np.random.default_rng(1), steps=steps, batch=4, poison_fraction=0.5)
        for steps in (5, [5, 5])
    )
    assert torch.equal(one.index_NSB, other.index_NSB)
    assert torch.equal(one.poisoned_NSB, other.poisoned_NSB)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("fedprox", {"mu": -1.0}, "mu=-1.0 is out of range"),
        ("pgd", {"radius": 0.0}, "radius=0.0 is out of range"),
        ("pgd", {"radius": 1.0, "every": 0}, "every=0 is out of range"),
        ("constrain_and_scale", {"alpha": 0.0}, "alpha=0.0 is out of range"),
        ("constrain_and_scale", {"distance": "norms"}, "did you mean 'norm'"),
        ("fedprx", {}, "did you mean 'fedprox'"),
    ],
)
def test_mistakes(name, given, message):
    with pytest.raises(UserError, match=message):
        make_rule(name, given)


def test_every_rule_has_a_case():
    assert {case.partition("-")[0] for case in RULES} == set(LOCAL_RULES)


@pytest.mark.parametrize(
    ("name", "given", "theirs"),
    [
        ("constant", {}, lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)),
        ("step", {"every": 3, "factor": 0.5}, lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5)),
        ("exp", {"factor": 0.9}, lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)),
        ("cosine", {"last": 0.1}, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 9, 0.1)),
    ],
)
def test_schedules_equal_those_of_torch(name, given, theirs):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler, rates = theirs(optimizer), []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    schedule = LR_SCHEDULES[name](**given)
    assert [schedule.factor(number, 10) for number in range(10)] == pytest.approx(rates)
    assert set(LR_SCHEDULES) == {"constant", "step", "exp", "cosine"}
