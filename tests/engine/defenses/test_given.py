"""What ``rflbat.aggregate`` takes besides a matrix: state dicts, parameters of modules, and a defense's needs."""

import numpy as np
import pytest
import torch

import rflbat
from rflbat.errors import UserError


def modules(count):
    torch.manual_seed(0)
    return [torch.nn.Linear(3, 4) for _ in range(count)]


KNOWN = {"params": np.zeros(20), "layers": {"weight": (4, 3), "bias": (4,)}, "sample_shape": (3,)}


@torch.no_grad()
def test_state_dicts_and_parameters_are_a_matrix():
    models = modules(5)
    matrix_ND = torch.stack([torch.cat([each.weight.flatten(), each.bias]) for each in models])
    wanted = rflbat.aggregate(matrix_ND, "krum")
    for updates in ([each.state_dict() for each in models], [each.parameters() for each in models]):
        decision = rflbat.aggregate(updates, "krum")
        assert torch.equal(decision.update, wanted.update)
        assert torch.equal(decision.kept, wanted.kept)
    arrays = [{name: value.numpy() for name, value in each.state_dict().items()} for each in models]
    assert torch.equal(rflbat.aggregate(arrays, "krum").update, wanted.update)


def test_a_module_is_judged_by_its_outputs():
    *clients, server = modules(7)
    updates = [
        {name: value - server.state_dict()[name] for name, value in each.state_dict().items()} for each in clients
    ]

    def outputs(named, x):
        return torch.func.functional_call(server, named, x)

    decision = rflbat.aggregate(
        updates, "deepsight", samples=30, params=server.state_dict(), outputs=outputs, sample_shape=(3,)
    )
    assert decision.kept.any()
    flat = torch.stack([torch.cat([each.flatten() for each in one.values()]) for one in updates])
    params_D = torch.cat([each.flatten() for each in server.state_dict().values()])
    known = {"params": params_D, "layers": {"weight": (4, 3), "bias": (4,)}, "sample_shape": (3,)}
    same = rflbat.aggregate(flat, "deepsight", samples=30, outputs=outputs, **known)
    assert torch.equal(same.update, decision.update)


@pytest.mark.parametrize(
    ("defense", "given", "message"),
    [
        ("flame", {}, r"flame needs the global parameters; pass params= the \(D,\) global parameters, or a state dict"),
        ("krum", {"params": np.zeros(20)}, "krum does not read params=; omit params="),
        ("krum", {"layers": {"w": (20,)}}, "krum does not read layers=; omit layers="),
        ("flame", {"params": np.zeros(19)}, r"params= is torch.float64 of the shape \(19,\); expected floats \(20,\)"),
        ("flame", {"params": {"w": np.zeros(20)}}, "params= is a state dict, but the updates are a matrix"),
        ("fltrust", {"root": np.zeros(20, int)}, r"root= are of type int64; expected a floating-point type"),
        ("deepsight", {"layers": {"w": (4, 3)}}, "layers= has 12 parameters; expected 20, the columns of the updates"),
        ("deepsight", {"layers": [(4, 3)]}, "layers= is a list; expected a mapping of names to shapes"),
        ("deepsight", {"layers": {"w": (20,)}}, "deepsight needs the outputs of the clients' models; pass outputs="),
        ("deepsight", {**KNOWN, "outputs": lambda named, x: x[0]}, r"outputs= returns \(3,\) for .* inputs; expected"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(defense, given, message):
    if defense == "deepsight" and "params" in given:
        given = {**given, "params": np.zeros(16)}
        updates = np.ones((3, 16))
    else:
        updates = np.ones((3, 20))
    with pytest.raises(UserError, match=message):
        rflbat.aggregate(updates, defense, **given)


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ([{"w": np.ones(3)}, {"v": np.ones(3)}], r"updates\[1\] holds {'v': \(3,\)}; expected {'w': \(3,\)}"),
        ([{"w": np.ones(3)}, {"w": np.ones(2)}], r"updates\[1\] holds {'w': \(2,\)}; expected {'w': \(3,\)}"),
        ([{"w": np.ones(3), "n": torch.tensor(3)}], r"updates\[0\]\['n'\] is of type torch.int64; expected floats"),
        ([{}], r"updates\[0\] holds no tensors"),
        ([[1.0, 2.0]], "updates are a list; expected a torch tensor"),
    ],
)
def test_named_updates_that_do_not_fit_are_refused(updates, message):
    with pytest.raises(UserError, match=message):
        rflbat.aggregate(updates, "fedavg")


def test_layers_are_named_once():
    with pytest.raises(UserError, match="layers= is given twice"):
        rflbat.aggregate([{"w": np.ones(3)}] * 3, "deepsight", layers={"w": (3,)})
