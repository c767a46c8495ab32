"""Tests that every attack passes, whatever its method: ``pytest --rflbat-battery NAME``.

Axes: N clients of the round, D parameters, B samples.
"""

import pytest
import torch
from torch import Tensor

from rflbat.attacks.base import Attack, SampleFormat
from rflbat.attacks.registry import make_attack
from rflbat.attacks.tampering import send_updates
from rflbat.errors import UserError
from rflbat.testing.formats import attack_cases, random_samples
from rflbat.testing.plugin import NAMED

BATTERY_OF: list[str] = []
"""Attacks under test; empty: those that ``--rflbat-battery`` names."""
FLAGS_B = torch.tensor([True, False, True, True, False])
MALICIOUS_N = torch.tensor([False, True, True, False, True, False, False])
MALICIOUS_M = torch.tensor([1, 2, 4])
D = 63


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test for each attack, or for each attack and format that it accepts."""
    names = metafunc.module.BATTERY_OF or metafunc.config.stash[NAMED]["attack"]
    if "samples" in metafunc.fixturenames:
        cases = [(name, samples) for name in names for samples, _ in attack_cases(name)]
        ids = [f"{name}-{samples.shape},{samples.high}" for name, samples in cases]
        metafunc.parametrize(("name", "samples"), cases, ids=ids)
    elif "name" in metafunc.fixturenames:
        metafunc.parametrize("name", names)


def updates(seed: int = 0) -> Tensor:
    """Draw updates of seven clients."""
    return torch.randn(len(MALICIOUS_N), D, generator=torch.Generator().manual_seed(seed))


def stamping(name: str, samples: SampleFormat) -> list[tuple[Attack, int]]:
    """List the triggers: 0 for the full one, k for the k-th local one; none for an attack that stamps nothing."""
    attack = make_attack(name, samples, 1.0, {})
    return [(attack, number) for number in range(len(attack.local_triggers) + 1)] if attack.success == "trigger" else []


def stamp(case: tuple[Attack, int], x: Tensor, on_B: Tensor) -> Tensor:
    """Apply a trigger."""
    attack, number = case
    return (attack.full_trigger, *attack.local_triggers)[number](x, on_B)


def test_only_flagged_samples_are_stamped(name: str, samples: SampleFormat) -> None:
    """Shape and type stay, and every flagged sample changes."""
    for case in stamping(name, samples):
        before = random_samples(samples)
        stamped = stamp(case, before.clone(), FLAGS_B)
        assert (stamped.shape, stamped.dtype) == (before.shape, before.dtype)
        assert torch.equal(stamped[~FLAGS_B], before[~FLAGS_B])
        assert (stamped[FLAGS_B] != before[FLAGS_B]).flatten(1).any(1).all()


def test_no_flagged_sample_is_nothing_stamped(name: str, samples: SampleFormat) -> None:
    """An empty mask changes nothing, also for an untargeted attack."""
    attack = make_attack(name, samples, 1.0, {})
    for number in range(len(attack.local_triggers) + 1):
        before = random_samples(samples)
        assert torch.equal(stamp((attack, number), before.clone(), torch.zeros(5, dtype=torch.bool)), before)


def test_a_sample_is_stamped_by_itself(name: str, samples: SampleFormat) -> None:
    """The other samples of a batch change no stamp."""
    for case in stamping(name, samples):
        before = random_samples(samples)
        together = stamp(case, before.clone(), torch.ones(len(before), dtype=torch.bool))
        for place in range(len(before)):
            alone = stamp(case, before[place : place + 1].clone(), torch.tensor([True]))
            assert torch.equal(alone[0], together[place])


def test_there_is_a_local_trigger(name: str, samples: SampleFormat) -> None:
    """Malicious clients are drawn to the groups in turn, so there is at least one group."""
    assert len(make_attack(name, samples, 1.0, {}).local_triggers) >= 1


@pytest.mark.parametrize("scale", [100.0, 0.5, -1.0])
def test_tampering_changes_malicious_rows_alone(name: str, samples: SampleFormat, scale: float) -> None:
    """And nothing if no client is malicious."""
    attack = make_attack(name, samples, scale, {})
    before_ND = updates()
    after_ND = send_updates(attack, before_ND.clone(), MALICIOUS_M)
    assert (after_ND.shape, after_ND.dtype) == (before_ND.shape, before_ND.dtype)
    assert torch.equal(after_ND[~MALICIOUS_N], before_ND[~MALICIOUS_N])
    assert (after_ND[MALICIOUS_N] != before_ND[MALICIOUS_N]).any(1).all()
    assert torch.equal(send_updates(attack, before_ND.clone(), MALICIOUS_M[:0]), before_ND)


def test_tampering_does_not_spread_what_is_not_finite(name: str, samples: SampleFormat) -> None:
    """A benign row with a NaN or an infinity reaches no other row."""
    before_ND = updates()
    before_ND[0, 5], before_ND[3, 7] = torch.nan, torch.inf
    after_ND = send_updates(make_attack(name, samples, 100.0, {}), before_ND.clone(), MALICIOUS_M)
    assert after_ND.isfinite().all(1).tolist() == [False, True, True, False, True, True, True]


def test_row_wise_tampering_works_on_any_columns(name: str, samples: SampleFormat) -> None:
    """``row_wise`` and ``needs_all_columns=False`` promise that a part of the columns is tampered with as the whole."""
    attack = make_attack(name, samples, 3.0, {})
    if attack.row_wise or attack.needs_all_columns is False:
        part = slice(11, 40)
        whole_ND = send_updates(attack, updates(), MALICIOUS_M)
        part_ND = send_updates(attack, updates()[:, part].clone(), MALICIOUS_M)
        torch.testing.assert_close(part_ND, whole_ND[:, part])


def test_row_wise_tampering_reads_no_other_row(name: str, samples: SampleFormat) -> None:
    """``row_wise`` promises it: in row-sparse updates, a column belongs to different words in different rows."""
    attack = make_attack(name, samples, 3.0, {})
    if attack.row_wise:
        whole_ND = send_updates(attack, updates(), MALICIOUS_M)
        for row in MALICIOUS_M.tolist():
            alone_1D = send_updates(attack, updates()[row : row + 1], torch.tensor([0]))
            torch.testing.assert_close(alone_1D[0], whole_ND[row])


def test_the_poisoned_share_is_a_share(name: str, samples: SampleFormat) -> None:
    """0 for an attack that poisons no data."""
    assert 0 <= make_attack(name, samples, 1.0, {}).poison_fraction <= 1


def test_unknown_parameters_are_refused(name: str, samples: SampleFormat) -> None:
    """A misspelt parameter is an error."""
    with pytest.raises(UserError, match="no parameter 'nonsense'"):
        make_attack(name, samples, 1.0, {"nonsense": 1})
