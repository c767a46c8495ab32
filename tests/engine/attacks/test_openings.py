"""ALIE, label flips, the attacker's view and the edge-case samples.

Axes: N clients, D parameters.
"""

import dataclasses
import gzip
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from rflbat.attacks.alie import largest_z
from rflbat.attacks.base import Attack, ExtraSamples, SampleFormat, no_trigger
from rflbat.attacks.labels import all_to_all, mirrored, random_labels, source_to_target
from rflbat.attacks.registry import make_attack
from rflbat.attacks.tampering import send_updates
from rflbat.attacks.view import AttackerView
from rflbat.clients.batches import draw_batches
from rflbat.errors import UserError
from rflbat.randomness import generator
from tests.engine.data.conftest import idx_bytes

IMAGES = SampleFormat((1, 28, 28), 1.0)
MALICIOUS_M = torch.tensor([1, 4, 5])
N, D = 9, 21


def updates(dtype=torch.float64):
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize(("sign", "factor"), [("minus", -1), ("plus", 1)])
@pytest.mark.parametrize("z", [None, 0.0, 1.5])
def test_alie_sends_the_mean_moved_by_deviations(z, sign, factor, ddof):
    before_ND = updates()
    before_ND[0, 3] = torch.nan
    attack = make_attack("alie", IMAGES, 2.0, {"z": z, "ddof": ddof, "sign": sign})
    sent_ND = send_updates(attack, before_ND.clone(), MALICIOUS_M)
    benign = before_ND[[2, 3, 6, 7, 8]].numpy()
    used = NormalDist().inv_cdf((9 - 3 - 2) / (9 - 3)) if z is None else z
    wanted_D = benign.mean(0) + 2.0 * factor * used * benign.std(0, ddof=ddof)
    for row in MALICIOUS_M:
        np.testing.assert_allclose(sent_ND[row].numpy(), wanted_D, rtol=1e-12)
    torch.testing.assert_close(sent_ND[[2, 3, 6, 7, 8]], before_ND[[2, 3, 6, 7, 8]], rtol=0, atol=0)


def test_the_largest_z():
    assert largest_z(50, 24) == pytest.approx(NormalDist().inv_cdf(24 / 26))
    assert largest_z(10, 9) == largest_z(10, 10) == 0
    assert largest_z(10, 0) == pytest.approx(max(0.0, NormalDist().inv_cdf(0.4)))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("alie", {"z": -1.0}, "z=-1.0 is out of range"),
        ("alie", {"z": math.inf}, "z=inf is out of range"),
        ("alie", {"ddof": 2}, "ddof=2 is out of range"),
        ("alie", {"sign": "both"}, "sign='both'"),
        ("label_flip", {"labels": "mirror"}, "did you mean 'mirrored'"),
        ("label_flip", {"source": -1}, "source=-1 is out of range"),
        ("label_flip", {"share": 1.1}, "share=1.1 is out of range"),
        ("edge_case", {"digit": 10}, "digit=10 is out of range"),
    ],
)
def test_mistakes(name, given, message):
    with pytest.raises(UserError, match=message):
        make_attack(name, IMAGES, 1.0, given)


def looking(what, knowledge):
    def tamper(own_MD, view, draw):
        getattr(view, what)
        return own_MD

    return Attack("curious", (no_trigger,), no_trigger, 0.0, tamper, knowledge=knowledge)


@pytest.mark.parametrize(
    ("what", "knowledge", "allowed"),
    [
        ("params_D", "own", False),
        ("params_D", "model", True),
        ("layout", "own", False),
        ("benign", "own", False),
        ("benign", "model", False),
        ("benign", "omniscient", True),
        ("previous_D", "model", False),
    ],
)
def test_the_view_grants_what_is_declared(what, knowledge, allowed):
    known = {} if knowledge == "own" else {"params_D": torch.zeros(D), "layout": "layout"}
    attack = looking(what, knowledge)
    if allowed:
        send_updates(attack, updates(), MALICIOUS_M, **known)
    else:
        with pytest.raises(UserError, match=f"attack 'curious' reads {what}"):
            send_updates(attack, updates(), MALICIOUS_M, **known)


def test_an_attack_gets_its_own_rows_alone():
    seen = []

    def tamper(own_MD, view, draw):
        seen.append((own_MD.clone(), view.clients, view.malicious))
        return own_MD * 0

    attack = Attack("mine", (no_trigger,), no_trigger, 0.0, tamper)
    sent_ND = send_updates(attack, updates(), MALICIOUS_M)
    ((own_MD, clients, malicious),) = seen
    assert torch.equal(own_MD, updates()[MALICIOUS_M])
    assert (clients, malicious) == (N, 3)
    assert (sent_ND[MALICIOUS_M] == 0).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"knowledge": "everything"},
        {"success": "luck"},
        {"row_wise": True, "knowledge": "omniscient"},
        {"success": "test set"},
        {"labels": all_to_all, "extra": lambda: None},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_declarations_that_contradict_are_refused(changes):
    with pytest.raises(UserError, match="attack 'mine'"):
        dataclasses.replace(Attack("mine", (no_trigger,), no_trigger, 0.0), **changes)


def test_labels():
    labels_n, stream = torch.arange(5), np.random.default_rng(0)
    assert all_to_all(labels_n, 5, 0, stream).label_n.tolist() == [1, 2, 3, 4, 0]
    flipped = mirrored(labels_n, 5, 0, stream)
    assert (flipped.label_n.tolist(), flipped.eligible_n.tolist()) == ([4, 3, 2, 1, 0], [True, True, False, True, True])
    pair = source_to_target(2)(labels_n, 5, 4, stream)
    assert (pair.label_n.tolist(), pair.eligible_n.tolist()) == ([4] * 5, [False, False, True, False, False])
    many = torch.randint(0, 5, (5000,), generator=torch.Generator().manual_seed(0))
    drawn = random_labels(many, 5, 0, stream).label_n
    assert (drawn != many).all()
    assert set(((drawn - many) % 5).tolist()) == {1, 2, 3, 4}


def test_extra_samples_replace_poisoned_ones_alone():
    samples = [np.arange(30), np.arange(30, 60)]
    drawn = draw_batches(
        samples, np.array([True, False]), generator(0, "batches"), steps=3, batch=8, poison_fraction=0.5
    )
    changed = drawn.with_extra(range(60, 64), generator(0, "extra"))
    assert torch.equal(changed.index_NSB[~drawn.poisoned_NSB], drawn.index_NSB[~drawn.poisoned_NSB])
    assert set(changed.index_NSB[drawn.poisoned_NSB].tolist()) <= set(range(60, 64))
    assert drawn.poisoned_NSB.any()


def test_edge_cases_take_ink_and_background_of_the_data(tmp_path):
    folder = tmp_path / "ardis_edge_case"
    folder.mkdir()
    draws = np.random.default_rng(0)
    images = {}
    for part, count in (("train", 12), ("t10k", 8)):
        images[part] = draws.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        labels = (np.arange(count) % 4 + 5).astype(np.uint8)
        for name, values in (("images-idx3", images[part]), ("labels-idx1", labels)):
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(idx_bytes(values)))
    attack = make_attack("edge_case", SampleFormat((1, 28, 28), -0.5, low=2.0, data_dir=tmp_path), 1.0, {})
    extra = attack.extra()
    assert isinstance(extra, ExtraSamples)
    wanted = 2.0 + images["train"][2::4] / 255 * -2.5
    np.testing.assert_allclose(extra.train_x[:, 0].numpy(), wanted, rtol=0, atol=1e-6)
    assert len(extra.test_x) == 2
    with pytest.raises(UserError, match="needs --data-dir"):
        make_attack("edge_case", IMAGES, 1.0, {}).extra()


def test_the_view_names_what_is_missing():
    view = AttackerView("mine", "omniscient", 3, 1)
    with pytest.raises(UserError, match="not there at this point"):
        view.benign  # noqa: B018
