"""Server optimizers against their definitions in numpy, and against torch.optim where both have one."""

import numpy as np
import pytest
import torch

from rflbat import Experiment, UserError, run
from rflbat.round.round import _unless
from rflbat.server.optimizers import Velocity
from rflbat.server.registry import SERVER_OPTIMIZERS, make_server_optimizer

D, ROUNDS = 7, 5
UPDATES = np.random.default_rng(0).normal(0, 0.1, (ROUNDS, D))


def steps(name, lr, **arguments):
    optimizer = make_server_optimizer(name, arguments)
    state, taken = optimizer.init(torch.zeros(D, dtype=torch.float64)), []
    for update_D in UPDATES:
        step_D, state = optimizer.apply(torch.from_numpy(update_D), state, lr)
        taken.append(step_D.numpy())
    return np.stack(taken)


def defined(name, lr, beta1=0.9, beta2=0.99, tau=1e-3):
    taken = []
    for column in range(D):
        m, v, own = 0.0, tau**2, []
        for update in UPDATES[:, column]:
            m = beta1 * m + (1 - beta1) * update
            square = update**2
            if name == "adam":
                v = beta2 * v + (1 - beta2) * square
            elif name == "yogi":
                v = v - (1 - beta2) * square * np.sign(v - square)
            else:
                v = v + square
            own.append(lr * m / (np.sqrt(v) + tau))
        taken.append(own)
    return np.array(taken).T


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("adam", {}), ("adam", {"beta1": 0.5, "beta2": 0.9, "tau": 0.1}), ("yogi", {}), ("adagrad", {"beta1": 0.0})],
)
def test_adaptive_steps_equal_their_definition(name, arguments):
    np.testing.assert_allclose(steps(name, 0.3, **arguments), defined(name, 0.3, **arguments), rtol=1e-12)


def test_momentum_is_that_of_torch():
    params = torch.zeros(D, dtype=torch.float64, requires_grad=True)
    theirs, before = torch.optim.SGD([params], lr=0.3, momentum=0.9), np.zeros(D)
    for update_D, step_D in zip(UPDATES, steps("momentum", 0.3, beta=0.9), strict=True):
        params.grad = torch.from_numpy(-update_D)
        theirs.step()
        np.testing.assert_allclose(step_D, params.detach().numpy() - before, rtol=1e-12)
        before = params.detach().numpy().copy()


def test_plain_steps():
    np.testing.assert_array_equal(steps("sgd", 0.3), 0.3 * UPDATES)
    np.testing.assert_allclose(steps("momentum", 0.3, beta=0.0), 0.3 * UPDATES)


def test_a_discarded_move_leaves_the_state():
    before, after = Velocity(torch.zeros(D)), Velocity(torch.ones(D))
    for discarded, wanted in ((True, before), (False, after)):
        assert torch.equal(_unless(torch.tensor(discarded), after, before).first_D, wanted.first_D)


def test_moves_that_overflow_are_discarded():
    settings = {"dataset": "digits", "clients": 6, "local_steps": 2, "defense": "fedavg", "device": "cpu"}
    result = run(Experiment(**settings, malicious=0.0, rounds=3, server_lr=3e38, lr=3.0, server_optimizer="momentum"))
    assert result.summary["moves_discarded"] > 0
    assert result.params.isfinite().all()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("adm", {}, "did you mean 'adam'"),
        ("adam", {"beta1": 1.0}, "beta1=1.0 is out of range"),
        ("adam", {"beta2": -0.1}, "beta2=-0.1 is out of range"),
        ("yogi", {"tau": 0.0}, "tau=0.0 is out of range"),
        ("momentum", {"beta": 1.5}, "beta=1.5 is out of range"),
    ],
)
def test_mistakes(name, arguments, message):
    with pytest.raises(UserError, match=message):
        Experiment(server_optimizer=name, server_optimizer_args=arguments)


def test_every_optimizer_has_a_test():
    assert set(SERVER_OPTIMIZERS) == {"sgd", "momentum", "adam", "yogi", "adagrad"}
