"""The autoencoder: what it learns, what it takes for a stranger, and where its threshold ends.

Axes: N clients of the round, M clean updates, D parameters, S surrogate coordinates.
"""

import dataclasses

import numpy as np
import pytest
import torch

from rflbat.aggregation import aggregate
from rflbat.defenses.autoencoder import autoencoder, rebuild, reconstruction_errors
from rflbat.defenses.base import restore_state, state_tensors
from rflbat.errors import UserError
from rflbat.randomness import draw_source
from rflbat.storage.tensors import load_tensors, save_tensors
from tests.engine.defenses.cases import PARAMETERS, agree, errors_of, straying
from tests.engine.defenses.test_krum import simulated
from tests.oracles import related

SMALL = {"surrogate": 30, "hidden": 12, "code": 4, "epochs": 150}


def structured(updates, seed, rank=3):
    """Clean updates that leave few directions of many, so that there is something to learn."""
    basis_rD = np.random.default_rng(99).standard_normal((rank, PARAMETERS))
    rng = np.random.default_rng(seed)
    return rng.standard_normal((updates, rank)) @ basis_rD + 0.1 * rng.standard_normal((updates, PARAMETERS))


def learn(clean_MD, seed=0, **parameters):
    defense = autoencoder(**{**SMALL, **parameters})
    return defense.pretrain(torch.as_tensor(clean_MD), draw_source(seed, "pretrain", 0, "cpu"))


def same(one, two):
    return all(torch.equal(state_tensors(one)[key], value) for key, value in state_tensors(two).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_errors_are_those_of_a_plain_forward_pass(dtype):
    updates_ND = torch.as_tensor(structured(9, 3)).to(dtype)
    updates_ND[4] = torch.nan
    detector = learn(structured(40, 0))
    errors_N = reconstruction_errors(detector, simulated(updates_ND, None))
    expected_N = errors_of(detector, updates_ND)
    assert float(errors_N[4]) == np.inf
    finite_N = np.arange(9) != 4
    np.testing.assert_allclose(errors_N.numpy()[finite_N], expected_N[finite_N], rtol=1e-11)


@pytest.mark.parametrize("seed", range(4))
def test_the_selection_is_the_papers_given_the_errors(seed):
    updates_ND, sizes_N = straying(13, seed), np.arange(1, 14)
    decision = aggregate(updates_ND, "autoencoder", clean=structured(40, 0), sizes=sizes_N, seed=seed, **SMALL)
    agree(decision, related.autoencoder_selection(decision.scores.numpy(), updates_ND, sizes_N))
    assert not decision.kept.all()


def test_it_drops_far_off_updates_and_keeps_most_clean_ones():
    clean_MD, updates_ND = structured(60, 0), structured(30, 1)
    updates_ND[:6] = 2.5 * np.random.default_rng(2).standard_normal((6, PARAMETERS))
    decision = aggregate(updates_ND, "autoencoder", clean=clean_MD, surrogate=PARAMETERS)
    assert not decision.kept[:6].any()
    assert decision.kept[6:].sum() >= 20
    # of no greater norm than honest ones: a length alone does not tell them apart
    assert np.linalg.norm(updates_ND[:6], axis=1).max() < np.linalg.norm(updates_ND[6:], axis=1).max()


def test_training_reduces_the_error():
    clean_MD = structured(60, 0)
    before, after = (
        reconstruction_errors(learn(clean_MD, epochs=epochs), simulated(torch.as_tensor(structured(20, 1)), None))
        for epochs in (1, 300)
    )
    assert float(after.mean()) < 0.5 * float(before.mean())


def test_it_learns_the_same_from_the_same_draws_alone():
    clean_MD = structured(40, 0)
    one = learn(clean_MD)
    assert same(one, learn(clean_MD.copy()))
    other = learn(clean_MD, seed=1)
    assert not torch.equal(one.index_S, other.index_S)
    assert not torch.equal(one.weight1_HS, other.weight1_HS)
    with torch.no_grad():
        assert same(one, learn(clean_MD))


def test_what_a_state_holds():
    clean_MD = structured(40, 0)
    detector = learn(clean_MD)
    fresh = autoencoder(**SMALL).init(13, PARAMETERS, torch.device("cpu"))
    for name, value in state_tensors(detector).items():
        assert value.shape == getattr(fresh, name).shape, name
        assert value.dtype == getattr(fresh, name).dtype, name
        assert not value.requires_grad
    assert (
        detector.index_S.tolist()
        == sorted(set(detector.index_S.tolist()))
        == np.flatnonzero(detector.sampled_D).tolist()
    )
    sampled_MS = clean_MD[:, detector.index_S]
    np.testing.assert_allclose(detector.mean_S, sampled_MS.mean(0), rtol=1e-12)
    deviation_S = sampled_MS.std(0)
    np.testing.assert_allclose(
        detector.scale_S, np.maximum(deviation_S, 0.1 * np.sqrt((deviation_S**2).mean())), rtol=1e-12
    )
    assert (float(detector.trained), float(fresh.trained)) == (1.0, 0.0)
    assert learn(clean_MD, surrogate=500).index_S.tolist() == list(range(PARAMETERS))


def test_a_coordinate_that_never_moves_counts_when_it_does():
    clean_MD = structured(60, 0)
    clean_MD[:, :8] = 0.7
    detector = learn(clean_MD, surrogate=PARAMETERS)
    typical = np.sqrt((clean_MD[:, 8:].std(0) ** 2).sum() / PARAMETERS)
    np.testing.assert_allclose(detector.scale_S[:8], 0.1 * typical, rtol=1e-12)
    updates_ND = structured(10, 1)
    updates_ND[:, :8] = 0.7
    updates_ND[3, :8] += 4
    decision = aggregate(updates_ND, "autoencoder", state=detector, **{**SMALL, "surrogate": PARAMETERS})
    assert np.flatnonzero(~decision.kept).tolist() == [3]
    # nothing moves at all
    still = learn(np.full((5, PARAMETERS), 0.1))
    assert still.scale_S.tolist() == [1.0] * 30


def test_a_hidden_relu_after_every_layer_but_the_last():
    eye = torch.eye(2, dtype=torch.float64)
    layers = ((eye, torch.tensor([1.0, -1.0]).double()),) * 2
    assert rebuild(layers, torch.tensor([[0.5, 0.5], [-2.0, 3.0]]).double()).tolist() == [[2.5, -1.0], [1.0, 1.0]]


def test_nonfinite_clean_rows_are_ignored():
    clean_MD = structured(40, 0)
    broken_MD = np.insert(clean_MD, [0, 20], np.nan, 0)
    broken_MD[0, 1:] = 5.0
    one, two = learn(clean_MD), learn(broken_MD)
    for name, value in state_tensors(one).items():
        torch.testing.assert_close(state_tensors(two)[name], value, rtol=1e-9, atol=1e-9)


def test_without_training_nobody_is_kept():
    """A detector that keeps all clients is no defense, and no other test would show it."""
    defense = autoencoder(**SMALL)
    updates = simulated(torch.as_tensor(structured(5, 1)), None)
    nothing = learn(np.full((4, PARAMETERS), np.nan))
    for state in (defense.init(5, PARAMETERS, torch.device("cpu")), nothing):
        decision = defense.apply(updates, state, None)
        assert not decision.kept.any()
        assert not decision.update.any()
        assert decision.trace["stage"].tolist() == [2] * 5
    assert all(value.isfinite().all() for value in state_tensors(nothing).values())


HOSTILE = [(torch.float32, 1e38), (torch.float32, -3e38), (torch.float64, 1e100), (torch.float64, -1e100)]


@pytest.mark.parametrize(("dtype", "huge"), HOSTILE)
@pytest.mark.parametrize("hostile", [1, 6, 12])
def test_hostile_updates_are_dropped_however_large(dtype, huge, hostile):
    """An error of Inf would raise the mean to Inf, which keeps all clients; NaN would keep none."""
    updates_ND = torch.as_tensor(structured(13, 1)).to(dtype)
    updates_ND[:hostile] = huge
    decision = aggregate(updates_ND, "autoencoder", state=learn(structured(40, 0)), **SMALL)
    assert decision.scores.isfinite().all()
    assert decision.kept.tolist() == [False] * hostile + [True] * (13 - hostile)
    assert decision.update.isfinite().all()


def test_one_absurd_update_hides_its_accomplices():
    """The paper's threshold is a mean: said in the docstring, and shown here."""
    updates_ND = structured(20, 1)
    updates_ND[1:4] += 5 * np.random.default_rng(0).standard_normal((3, PARAMETERS))
    detector = learn(structured(60, 0), surrogate=PARAMETERS)
    parameters = {**SMALL, "surrogate": PARAMETERS}
    assert not aggregate(updates_ND, "autoencoder", state=detector, **parameters).kept[1:4].any()
    updates_ND[0] = 1e6
    assert aggregate(updates_ND, "autoencoder", state=detector, **parameters).kept.tolist() == [False] + [True] * 19


@pytest.mark.parametrize("clients", [1, 2, 3, 7, 64, 100])
def test_equal_updates_all_pass(clients):
    updates_ND = np.tile(structured(1, 1), (clients, 1))
    assert aggregate(updates_ND, "autoencoder", state=learn(structured(40, 0)), **SMALL).kept.all()


def test_the_state_lasts_and_goes_through_a_checkpoint(tmp_path):
    detector = learn(structured(40, 0))
    save_tensors(tmp_path / "state.safetensors", state_tensors(detector), {})
    stored, _ = load_tensors(tmp_path / "state.safetensors")
    fresh = autoencoder(**SMALL).init(13, PARAMETERS, torch.device("cpu"))
    restored = restore_state(fresh, stored)
    assert same(restored, detector)
    one, two = (aggregate(straying(13, 0), "autoencoder", state=state, **SMALL) for state in (detector, restored))
    assert torch.equal(one.update, two.update)
    assert one.state is detector
    with pytest.raises(ValueError, match="state"):
        restore_state(autoencoder(**{**SMALL, "hidden": 13}).init(13, PARAMETERS, torch.device("cpu")), stored)


def test_training_leaves_its_input_and_the_state_alone():
    clean_MD = torch.as_tensor(structured(40, 0))
    before_MD = clean_MD.clone()
    detector = learn(clean_MD)
    assert torch.equal(clean_MD, before_MD)
    frozen = {name: value.clone() for name, value in state_tensors(detector).items()}
    aggregate(straying(13, 0), "autoencoder", state=detector, **SMALL)
    assert same(detector, dataclasses.replace(detector, **frozen))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("value", [0, -1])
def test_values_out_of_range(name, value):
    with pytest.raises(UserError, match=f"autoencoder: {name}={value} is out of range; allowed: at least 1"):
        autoencoder(**{name: value})
