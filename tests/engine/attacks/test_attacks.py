"""A battery over every attack, and the place and size of the pixel trigger.

Legend of the suffixes: N clients, D parameters, B samples.
"""

import numpy as np
import pytest
import torch

from rflbat.attacks.base import Samples
from rflbat.attacks.pixel import pixel
from rflbat.attacks.registry import ATTACKS, make_attack
from rflbat.attacks.scaling import scaling
from rflbat.errors import UserError

FORMATS = [Samples((1, 28, 28), 1.0), Samples((3, 9, 13), 0.25), Samples((1, 28, 28), -0.5)]
FLAGS_B = torch.tensor([True, False, True, True, False])
MALICIOUS_N = torch.tensor([False, True, True, False, True, False, False])

every_attack = pytest.mark.parametrize("name", ATTACKS)
every_format = pytest.mark.parametrize("samples", FORMATS, ids=lambda samples: f"{samples.shape},{samples.high}")


def random_tensor(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def triggers(attack):
    return (attack.full_trigger, *attack.local_triggers)


@every_attack
@every_format
def test_only_flagged_samples_are_stamped(name, samples):
    for trigger in triggers(make_attack(name, samples, 1.0, {})):
        before = random_tensor(5, *samples.shape)
        stamped = trigger(before.clone(), FLAGS_B)
        assert stamped.shape == before.shape
        assert torch.equal(stamped[~FLAGS_B], before[~FLAGS_B])
        assert (stamped[FLAGS_B] != before[FLAGS_B]).flatten(1).any(1).all()


@every_attack
@every_format
def test_nobody_flagged_is_nothing_stamped(name, samples):
    for trigger in triggers(make_attack(name, samples, 1.0, {})):
        before = random_tensor(5, *samples.shape)
        assert torch.equal(trigger(before.clone(), torch.zeros(5, dtype=torch.bool)), before)


@every_attack
@every_format
def test_stamping_twice_is_stamping_once(name, samples):
    for trigger in triggers(make_attack(name, samples, 1.0, {})):
        once = trigger(random_tensor(5, *samples.shape), FLAGS_B).clone()
        assert torch.equal(trigger(once.clone(), FLAGS_B), once)


@every_attack
@every_format
def test_the_local_triggers_make_up_the_full_one(name, samples):
    attack = make_attack(name, samples, 1.0, {})
    before, everybody = random_tensor(3, *samples.shape), torch.ones(3, dtype=torch.bool)
    together = before.clone()
    for trigger in attack.local_triggers:
        together = trigger(together, everybody)
    assert torch.equal(together, attack.full_trigger(before.clone(), everybody))


@every_attack
@pytest.mark.parametrize("scale", [100.0, 0.5, -1.0])
def test_tampering_touches_malicious_rows_alone(name, scale):
    attack = make_attack(name, FORMATS[0], scale, {})
    before_ND = random_tensor(len(MALICIOUS_N), 63)
    sent_ND = attack.tamper(before_ND.clone(), MALICIOUS_N)
    assert torch.equal(sent_ND[~MALICIOUS_N], before_ND[~MALICIOUS_N])
    assert (sent_ND[MALICIOUS_N] != before_ND[MALICIOUS_N]).any(1).all()
    assert torch.equal(attack.tamper(before_ND.clone(), torch.zeros_like(MALICIOUS_N)), before_ND)


@every_attack
def test_tampering_does_not_spread_what_is_not_finite(name):
    before_ND = random_tensor(len(MALICIOUS_N), 63)
    before_ND[1, 5], before_ND[3, 7] = torch.nan, torch.inf
    sent_ND = make_attack(name, FORMATS[0], 100.0, {}).tamper(before_ND.clone(), MALICIOUS_N)
    assert sent_ND.isfinite().all(1).tolist() == [True, False, True, False, True, True, True]


@every_attack
def test_a_share_of_a_batch_is_poisoned(name):
    attack = make_attack(name, FORMATS[0], 1.0, {})
    assert attack.name == name
    assert 0 < attack.poisoned_share <= 1


@every_attack
def test_unknown_parameters_are_refused(name):
    with pytest.raises(UserError, match=rf"^attack '{name}' has no parameter 'nonsense'"):
        make_attack(name, FORMATS[0], 1.0, {"nonsense": 1})


def test_an_unknown_attack_is_refused():
    with pytest.raises(UserError, match=r"^unknown attack 'pixle'; did you mean 'pixel'\?; known: pixel"):
        make_attack("pixle", FORMATS[0], 1.0, {})


@every_format
@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_the_pixel_trigger_lies_in_the_lower_left_corner(samples, size):
    attack = make_attack("pixel", samples, 1.0, {"size": str(size)})
    before = random_tensor(5, *samples.shape).numpy()
    stamped = attack.full_trigger(torch.from_numpy(before.copy()), FLAGS_B).numpy()
    _, height, width = samples.shape
    rows, columns = np.mgrid[:height, :width]
    corner = (rows >= height - size) & (columns < size)
    lit = FLAGS_B.numpy()[:, None, None, None] & corner
    np.testing.assert_array_equal(stamped, np.where(lit, np.float32(samples.high), before))


def test_the_paper_s_pixel_attack_is_the_default():
    attack = make_attack("pixel", FORMATS[0], 1.0, {})
    assert attack.poisoned_share == 0.5
    lit = attack.full_trigger(torch.zeros(1, 1, 28, 28), torch.tensor([True]))[0, 0].nonzero().tolist()
    assert lit == [[row, column] for row in (25, 26, 27) for column in (0, 1, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "attack 'pixel': size=0 is not in 1..9"),
        ({"size": 10}, "attack 'pixel': size=10 is not in 1..9"),
        ({"share": -0.1}, "attack 'pixel': share=-0.1 is not in 0..1"),
        ({"share": "1.5"}, "attack 'pixel': share=1.5 is not in 0..1"),
        ({"share": "nan"}, "attack 'pixel': share=nan is not in 0..1"),
        ({"size": "big"}, "attack 'pixel': size='big' is not of type int"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(UserError) as caught:
        make_attack("pixel", FORMATS[1], 1.0, arguments)
    assert str(caught.value) == message


def test_the_pixel_trigger_needs_images():
    with pytest.raises(UserError, match=r"^attack 'pixel' needs images"):
        pixel(Samples((100,), 1.0), 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scaling_multiplies_by_lambda(dtype):
    before_ND = random_tensor(len(MALICIOUS_N), 63, dtype=dtype)
    sent_ND = scaling(100.0)(before_ND.clone(), MALICIOUS_N)
    assert sent_ND.dtype == dtype
    assert torch.equal(sent_ND[MALICIOUS_N], 100 * before_ND[MALICIOUS_N])


def test_a_factor_of_1_keeps_every_bit():
    before_ND = random_tensor(len(MALICIOUS_N), 63)
    before_ND[1, 0] = torch.nan
    sent_ND = scaling(1.0)(before_ND.clone(), MALICIOUS_N)
    assert torch.equal(sent_ND.view(torch.int32), before_ND.view(torch.int32))
