"""FLTrust: what is special about it."""

import numpy as np
import pytest
import torch

import rflbat
from rflbat.errors import UserError

ROOT = np.array([0.0, 2.0])


def test_a_client_counts_by_its_direction_alone():
    updates_ND = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 100.0], [1.0, -1.0]])
    decision = rflbat.aggregate(updates_ND, "fltrust", root=ROOT)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(decision.scores.numpy(), [1, half, 1, 0], atol=1e-15)
    # Each is rescaled to the length 2 of the server's update.
    wanted = (np.array([0.0, 2.0]) * 2 + half * 2 * half * np.array([1.0, 1.0])) / (2 + half)
    np.testing.assert_allclose(decision.update.numpy(), wanted)


@pytest.mark.parametrize(("fallback", "update"), [("keep", [0.0, 0.0]), ("uniform", [1.0, -1.0])])
def test_without_a_trusted_client(fallback, update):
    updates_ND = np.array([[0.0, -7.0], [3.0, 0.0]])
    decision = rflbat.aggregate(updates_ND, "fltrust", root=ROOT, fallback=fallback)
    assert decision.update.tolist() == update
    assert decision.kept.tolist() == [fallback == "uniform"] * 2


@pytest.mark.parametrize("root", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_a_server_whose_own_update_is_of_no_use_keeps_the_model(root):
    decision = rflbat.aggregate(np.ones((3, 2)), "fltrust", root=np.array(root))
    assert not decision.kept.any()
    assert torch.equal(decision.update, torch.zeros(2, dtype=torch.float64))


def test_its_needs_are_named():
    with pytest.raises(UserError, match=r"fltrust needs an update of the server's own; pass root= the \(D,\) update"):
        rflbat.aggregate(np.ones((3, 2)), "fltrust")
    with pytest.raises(UserError, match="fallback='none'; allowed: keep, uniform"):
        rflbat.aggregate(np.ones((3, 2)), "fltrust", root=ROOT, fallback="none")
