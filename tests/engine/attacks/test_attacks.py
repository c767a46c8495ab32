"""The triggers and the poisoned share of the paper's attacks, and the place and size of the pixel trigger.

Legend of the suffixes: N clients, D parameters, B samples.
"""

import inspect

import numpy as np
import pytest
import torch

from rflbat.attacks.base import SampleFormat
from rflbat.attacks.registry import ATTACKS, make_attack
from rflbat.attacks.scaling import scaling
from rflbat.attacks.view import AttackerView
from rflbat.errors import UserError
from rflbat.testing.formats import IMAGES, random_samples
from tests.engine.attacks.formats import DIGITS, FEMNIST, REVIEWS, SUITED

FLAGS_B = torch.tensor([True, False, True, True, False])
MALICIOUS_N = torch.tensor([False, True, True, False, True, False, False])


def label(samples):
    return f"{samples.shape},{samples.high}"


def cases(names):
    return [pytest.param(name, samples, id=f"{name}-{label(samples)}") for name in names for samples in SUITED[name]]


CASES = cases(("pixel", "sentence", "dba"))
"""The properties of their triggers are not rules for every attack: those are in the shipped battery."""
SHARED = cases(name for name in ATTACKS if "share" in inspect.signature(ATTACKS[name]).parameters)
every_case = pytest.mark.parametrize(("name", "samples"), CASES)
every_image = pytest.mark.parametrize(
    ("name", "samples"), [case for case in CASES if case.values[1].encode is None]
)  # a text stamped twice holds two sentences


def random_tensor(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def triggers(name, samples):
    attack = make_attack(name, samples, 1.0, {})
    return (attack.full_trigger, *attack.local_triggers)


def all_on(x):
    return torch.ones(len(x), dtype=torch.bool)


@every_case
def test_our_triggers_write_into_what_they_are_given(name, samples):
    """They may return other memory; ours need none."""
    for trigger in triggers(name, samples):
        x = random_samples(samples)
        assert trigger(x, FLAGS_B).data_ptr() == x.data_ptr()
        assert not torch.equal(x, random_samples(samples))


@every_image
def test_stamping_twice_is_stamping_once(name, samples):
    for trigger in triggers(name, samples):
        once = trigger(random_samples(samples), FLAGS_B).clone()
        assert torch.equal(trigger(once.clone(), FLAGS_B), once)


@every_image
def test_the_local_triggers_make_up_the_full_one(name, samples):
    attack = make_attack(name, samples, 1.0, {})
    before = random_samples(samples)
    together = before.clone()
    for trigger in attack.local_triggers:
        together = trigger(together, all_on(before))
    assert torch.equal(together, attack.full_trigger(before.clone(), all_on(before)))


@every_case
def test_half_of_a_batch_is_poisoned_unless_told(name, samples):
    attack = make_attack(name, samples, 1.0, {})
    assert (attack.name, attack.poison_fraction) == (name, 0.5)
    for share in (0, 0.25, 1):
        assert make_attack(name, samples, 1.0, {"share": share}).poison_fraction == share


@pytest.mark.parametrize(("name", "samples"), SHARED)
@pytest.mark.parametrize("share", [-0.1, 1.5, "nan", "inf"])
def test_a_share_out_of_range_is_refused(name, samples, share):
    with pytest.raises(UserError) as caught:
        make_attack(name, samples, 1.0, {"share": share})
    assert str(caught.value) == f"attack '{name}': share={share} is out of range; allowed: 0 to 1"


def test_an_unknown_attack_is_refused():
    with pytest.raises(UserError, match=r"^unknown attack 'pixle'; did you mean 'pixel'\?; known: pixel"):
        make_attack("pixle", DIGITS, 1.0, {})


@pytest.mark.parametrize("samples", IMAGES, ids=label)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_pixel_trigger_lies_in_the_lower_left_corner(samples, size):
    attack = make_attack("pixel", samples, 1.0, {"size": str(size)})
    before = random_samples(samples).numpy()
    stamped = attack.full_trigger(torch.from_numpy(before.copy()), FLAGS_B).numpy()
    _, height, width = samples.shape
    rows, columns = np.mgrid[:height, :width]
    corner = (rows >= height - size) & (columns < size)
    lit = FLAGS_B.numpy()[:, None, None, None] & corner
    np.testing.assert_array_equal(stamped, np.where(lit, np.float32(samples.high), before))


@pytest.mark.parametrize(("samples", "paper"), [(DIGITS, 0.0), (FEMNIST, 1.0)], ids=["digits", "femnist"])
def test_the_paper_s_pixel_attack_is_the_default(samples, paper):
    attack = make_attack("pixel", samples, 1.0, {})
    assert attack.poison_fraction == 0.5
    stamped = attack.full_trigger(torch.full((1, 1, 28, 28), paper), torch.tensor([True]))[0, 0]
    assert stamped.unique().tolist() == [0.0, 1.0]
    lit = (stamped == samples.high).nonzero().tolist()
    assert lit == [[row, column] for row in (25, 26, 27) for column in (0, 1, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "attack 'pixel': size=0 is out of range; allowed: 1 to 9"),
        ({"size": 10}, "attack 'pixel': size=10 is out of range; allowed: 1 to 9"),
        ({"size": "big"}, "attack 'pixel': size='big' is not of type int"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(UserError) as caught:
        make_attack("pixel", SampleFormat((3, 9, 13), 1.0), 1.0, arguments)
    assert str(caught.value) == message


def test_the_largest_square_fills_the_image():
    attack = make_attack("pixel", SampleFormat((1, 9, 9), 1.0), 1.0, {"size": 9})
    assert attack.full_trigger(torch.zeros(1, 1, 9, 9), torch.tensor([True])).min() == 1


def test_the_pixel_trigger_needs_images():
    with pytest.raises(UserError) as caught:
        make_attack("pixel", REVIEWS, 1.0, {})
    assert str(caught.value) == ("attack 'pixel' needs images (channels, height, width); got samples of shape (100,)")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scaling_multiplies_by_lambda(dtype):
    before_MD = random_tensor(4, 63, dtype=dtype)
    sent_MD = scaling(100.0)(before_MD.clone(), AttackerView("pixel", "own", 9, 4), None)
    assert sent_MD.dtype == dtype
    assert torch.equal(sent_MD, 100 * before_MD)


def test_a_factor_of_1_does_not_tamper():
    assert scaling(1.0) is None
