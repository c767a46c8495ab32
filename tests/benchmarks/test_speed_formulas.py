"""The formulas that the benchmark holds results against: they equal the oracles, which are loops from the papers."""

import numpy as np
import pytest
import torch
from benchmarks.speed.baselines import sklearn_rflbat
from benchmarks.speed.defenses import learned
from benchmarks.speed.formulas import BLOCK, FORMULAS, Matrix, Settings
from benchmarks.speed.workloads import make_updates

from rflbat.defenses.autoencoder import Detector, reconstruction_errors
from rflbat.defenses.base import Updates
from rflbat.defenses.registry import DEFENSES, make_defense
from tests.oracles import defenses, related

N, D, F, BOUND = 13, 40, 2, 0.1
UPDATES = make_updates(N, D, seed=5)


def errors():
    """The autoencoder's, by the engine: the oracle takes them as given."""
    matrix_ND = torch.from_numpy(UPDATES)
    ones = torch.ones(N, dtype=torch.float64)
    seen = Updates(matrix_ND, ones, torch.arange(N), torch.ones(N, dtype=torch.bool))
    state = learned(N, D)[0]
    assert isinstance(state, Detector)
    return reconstruction_errors(state, seen).numpy()


ORACLES = {
    "fedavg": lambda: defenses.fedavg(UPDATES),
    "rflbat": lambda: defenses.rflbat(UPDATES, clusters=2),
    "foolsgold": lambda: defenses.foolsgold(UPDATES),
    "krum": lambda: defenses.krum(UPDATES, f=F),
    "multikrum": lambda: defenses.multikrum(UPDATES, f=F),
    "geomed": lambda: defenses.geomed(UPDATES),
    "rfa": lambda: defenses.rfa(UPDATES),
    "median": lambda: related.median(UPDATES),
    "trimmed_mean": lambda: related.trimmed_mean(UPDATES, f=F),
    "bulyan": lambda: related.bulyan(UPDATES, f=F),
    "norm_clipping": lambda: related.norm_clipping(UPDATES, bound=BOUND),
    "auror": lambda: related.auror(UPDATES),
    "autoencoder": lambda: related.autoencoder_selection(errors(), UPDATES),
}


def formula(name, exact):
    detector = learned(N, D)[1] if name == "autoencoder" else {}
    return FORMULAS[name](Matrix(UPDATES, exact), Settings(F, BOUND, detector))


def test_every_defense_has_a_formula():
    assert list(FORMULAS) == [name for name in DEFENSES if not make_defense(name, {}).needs]
    assert list(FORMULAS) == list(ORACLES)


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_equal_the_oracles(name):
    expected = ORACLES[name]().update
    np.testing.assert_allclose(formula(name, exact=True), expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(formula(name, exact=False), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_blocks_of_columns_change_nothing(name, monkeypatch):
    whole = formula(name, exact=True)
    monkeypatch.setattr("benchmarks.speed.formulas.BLOCK", 7)
    np.testing.assert_allclose(formula(name, exact=True), whole, rtol=1e-9, atol=1e-12)
    assert D < BLOCK


def test_rflbat_of_scikit_learn_drops_the_shifted():
    updates = make_updates(20, 3000)
    honest = defenses.rflbat(updates, clusters=2)
    np.testing.assert_allclose(sklearn_rflbat(updates), honest.update, rtol=1e-4, atol=1e-7)
    assert 0 < honest.kept.sum() < 20
