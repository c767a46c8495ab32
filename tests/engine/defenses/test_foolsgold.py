"""FoolsGold over several rounds: whose history it is, and its options.

Axes: N clients of the round, C clients of the federation, D parameters.
"""

import numpy as np
import pytest
import torch

from rflbat.aggregation import aggregate
from rflbat.defenses.base import Updates
from rflbat.defenses.foolsgold import foolsgold, learning_rates
from rflbat.errors import UserError
from rflbat_kernels import finite_rows
from tests.engine.defenses.cases import PARAMETERS, agree, scattered
from tests.oracles import defenses as oracles

FEDERATION = 17


def one_round(defense, updates_ND, clients_N, state):
    matrix_ND = torch.as_tensor(updates_ND)
    seen = Updates(matrix_ND, torch.ones(len(clients_N)).double(), torch.as_tensor(clients_N), finite_rows(matrix_ND))
    return defense.apply(seen, state, lambda *shape: torch.zeros(shape))


def dyadic(clients, seed):
    """Multiples of 1/64: float32 adds many of them without rounding, so the history is exact."""
    return np.round(scattered(clients, seed) * 64) / 64


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
def test_rounds_with_changing_participants_against_the_oracle(memory, normalise):
    """Participants and their order differ from round to round; sometimes a client sends NaN."""
    rng = np.random.default_rng(0)
    defense = foolsgold(memory=memory, normalise=normalise)
    state = defense.init(FEDERATION, PARAMETERS, torch.device("cpu"))
    history_CD = np.zeros((FEDERATION, PARAMETERS))
    for number in range(5):
        clients_N = rng.permutation(FEDERATION)[: 7 + number]
        updates_ND = dyadic(len(clients_N), number)
        # two sybils who hide by noise of opposite sign in turn: only their histories are alike
        noise_D = np.round(rng.standard_normal(PARAMETERS) * 64) / 16
        for sybil, sign in ((3, 1), (11, -1)):
            updates_ND[clients_N == sybil] = 1.5 + sign * (-1) ** number * noise_D
        if number in (1, 3):
            updates_ND[2, 5] = np.nan
        answer = oracles.foolsgold(updates_ND, history=history_CD[clients_N], memory=memory, normalise=normalise)
        decision = one_round(defense, updates_ND, clients_N, state)
        state = decision.state
        assert torch.equal(decision.kept, torch.as_tensor(answer.kept))
        np.testing.assert_allclose(decision.scores.numpy(), answer.detail["alphas"], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(decision.update.numpy(), answer.update, rtol=1e-9, atol=1e-9)
        assert float(decision.weights.sum()) == pytest.approx(1)
        if memory:
            history_CD[clients_N] = answer.detail["history"]
            assert state.history_CD.numpy().tolist() == history_CD.tolist()
    if memory:
        assert not state.history_CD[~np.isin(np.arange(FEDERATION), np.flatnonzero(history_CD.any(1)))].any()


def test_memory_judges_by_all_rounds_and_its_absence_by_one():
    """Two sybils with a common aim differ in each single round, and agree over two."""
    rng = np.random.default_rng(1)
    aim_D, noise_D = rng.standard_normal((2, PARAMETERS))
    honest = [rng.standard_normal((4, PARAMETERS)) for _ in range(2)]
    rounds = [
        np.concatenate([[aim_D + sign * 3 * noise_D, aim_D - sign * 3 * noise_D], others_ND]).astype(np.float32)
        for sign, others_ND in zip((1, -1), honest, strict=True)
    ]
    for memory in (True, False):
        first = aggregate(rounds[0], "foolsgold", memory=memory)
        second = aggregate(rounds[1], "foolsgold", memory=memory, state=first.state)
        assert first.kept.all()
        assert second.kept.tolist() == [not memory, not memory, True, True, True, True]
    # without the state there is nothing to remember
    assert aggregate(rounds[1], "foolsgold").kept.all()


def test_absent_clients_keep_their_history():
    defense = foolsgold()
    state = defense.init(5, 3, torch.device("cpu"))
    state = one_round(defense, np.array([[1.0, 0, 0], [0, 2.0, 0]]), np.array([4, 1]), state).state
    after = one_round(defense, np.array([[0, 0, 3.0]]), np.array([4]), state).state
    assert after.history_CD.tolist() == [[0, 0, 0], [0, 2, 0], [0, 0, 0], [0, 0, 0], [1, 0, 3]]
    # the state that was given is still the old one
    assert state.history_CD.tolist() == [[0, 0, 0], [0, 2, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_without_normalisation_the_step_is_the_plain_sum():
    updates_ND = scattered(12, 0)
    plain, divided = (aggregate(updates_ND, "foolsgold", normalise=normalise) for normalise in (False, True))
    assert torch.equal(plain.scores, divided.scores)
    assert torch.equal(plain.weights, divided.weights)
    assert float(plain.scores.sum()) > 2
    torch.testing.assert_close(plain.update, divided.update * plain.scores.sum())
    np.testing.assert_allclose(
        plain.update.numpy(), oracles.foolsgold(updates_ND, normalise=False).update, rtol=1e-9, atol=1e-9
    )


def test_kappa_against_the_oracle():
    updates_ND = (scattered(12, 3) + 0.8).astype(np.float32)
    scores = set()
    for kappa in (0.1, 0.3, 1.0, 4.0):
        decision = aggregate(updates_ND, "foolsgold", kappa=kappa)
        answer = oracles.foolsgold(updates_ND, kappa=kappa)
        agree(decision, answer, 1e-6)
        np.testing.assert_allclose(decision.scores.numpy(), answer.detail["alphas"], rtol=1e-9, atol=1e-9)
        scores.add(tuple(decision.scores.tolist()))
    assert len(scores) == 4


def test_the_pardon_lets_an_honest_client_go_that_looks_like_a_sybil():
    """Two sybils at cosine 1, an honest client at cosine 0.7 to both: by m_i / m_j its likeness shrinks to 0.49."""
    cosines_NN = torch.tensor([[1.0, 1.0, 0.7], [1.0, 1.0, 0.7], [0.7, 0.7, 1.0]], dtype=torch.float64)
    rates_N = learning_rates(cosines_NN, torch.ones(3, dtype=torch.bool), 1.0)
    assert rates_N.tolist() == [0.0, 0.0, 1.0]
    # 1 - 0.49 = 0.51 and 1 - 0.8 = 0.2 of it: ln(w / (1 - w)) + 1/2 < 0 for w = 0.2 / 0.51; unpardoned 0.2 / 0.3 passes
    less_NN = torch.tensor([[1.0, 0.8, 0.7], [0.8, 1.0, 0.7], [0.7, 0.7, 1.0]], dtype=torch.float64)
    w = 0.2 / (1 - 0.7 * 0.7 / 0.8)
    expected = max(0.0, np.log(w / (1 - w)) + 0.5)
    rates_N = learning_rates(less_NN, torch.ones(3, dtype=torch.bool), 1.0)
    assert rates_N.tolist() == pytest.approx([expected, expected, 1.0])


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_parallel_updates_are_alike_although_their_cosine_is_one_only_up_to_rounding(memory, seed):
    """1 - cosine = 1e-16, divided by the largest of its kind, would be full trust for all the sybils."""
    pull_D = np.random.default_rng(seed).standard_normal(PARAMETERS)
    updates_ND = np.outer([1.0, 2.0, 3.0, 0.7, 1.1], pull_D)
    decision = aggregate(updates_ND, "foolsgold", memory=memory)
    assert not oracles.foolsgold(updates_ND, memory=memory).kept.any()
    assert not decision.kept.any()
    assert not decision.update.any()


def test_a_history_beyond_float32_does_not_make_sybils_look_different():
    """Two finite updates may add up to more than float32 holds; infinite histories would have no cosine at all."""
    rng = np.random.default_rng(2)
    updates_ND = rng.standard_normal((6, PARAMETERS)).astype(np.float32)
    updates_ND[:2, 0] = 3e38
    state = None
    for _ in range(3):
        decision = aggregate(updates_ND, "foolsgold", state=state)
        state = decision.state
        assert decision.kept.tolist() == [False, False, True, True, True, True]
        assert torch.isfinite(state.history_CD).all()


def test_the_plain_sum_of_finite_updates_stays_finite():
    updates_ND = np.zeros((3, PARAMETERS), np.float32)
    updates_ND[:, 0] = 3e38
    updates_ND[[1, 2], [1, 2]] = -3e38
    decision = aggregate(updates_ND, "foolsgold", normalise=False)
    assert decision.kept.any()
    assert torch.isfinite(decision.update).all()


@pytest.mark.parametrize("kappa", [0.0, -1.0])
def test_kappa_must_be_above_zero(kappa):
    with pytest.raises(UserError, match=f"kappa={kappa}"):
        foolsgold(kappa=kappa)
