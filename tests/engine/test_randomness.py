import itertools

import numpy as np
import pytest
import torch

from rflbat.randomness import draw_source, generator

SEEDS = (0, 1, 11, -1, 2**70)
PURPOSES = ("batches", "roles", "defense")
ROUNDS = (0, 1, 11)


def test_the_same_key_gives_the_same_numbers():
    np.testing.assert_array_equal(generator(3, "batches", 7).random(101), generator(3, "batches", 7).random(101))


def test_every_part_of_the_key_matters():
    keys = list(itertools.product(SEEDS, PURPOSES, ROUNDS))
    firsts = {generator(*key).integers(2**63) for key in keys}
    assert len(firsts) == len(keys)


def test_the_round_is_0_where_none_is_given():
    assert generator(5, "model").random() == generator(5, "model", 0).random()


def test_the_streams_never_change():
    # A run of an earlier version can be resumed, and its numbers reproduced, only while these stay as they are.
    assert generator(0, "batches", 3).integers(2**32, size=3).tolist() == [3538910505, 1052056492, 3700174228]
    assert generator(7, "defense").random(2).tolist() == [0.5742748778535414, 0.8107082795951079]


def test_no_draw_depends_on_other_streams():
    alone = generator(0, "roles", 1).random(63)
    first, other = generator(0, "roles", 1), generator(0, "batches", 1)
    mixed = []
    for _ in range(63):
        other.permutation(5)
        mixed.append(first.random())
    np.testing.assert_array_equal(alone, mixed)


@pytest.mark.parametrize("other", [(1, "defense", 4), (0, "batches", 4), (0, "defense", 5)])
def test_streams_are_independent(other):
    # 10,001 products of independent centred uniforms: the mean's standard deviation is 1/12/sqrt(10001) = 0.00083.
    product = (generator(0, "defense", 4).random(10001) - 0.5) * (generator(*other).random(10001) - 0.5)
    assert abs(product.mean()) < 4 * 0.00083


def test_uniforms_are_float64_in_0_to_1_of_the_wanted_shape():
    drawn = draw_source(0, "defense", 0, "cpu")(3, 101, 7)
    assert drawn.shape == (3, 101, 7)
    assert drawn.dtype == torch.float64
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 4 * (1 / 12 / drawn.numel()) ** 0.5


def test_each_call_of_uniforms_goes_on_with_the_stream():
    whole = draw_source(2, "defense", 9, "cpu")(7, 3)
    draw = draw_source(2, "defense", 9, "cpu")
    assert torch.equal(whole, torch.cat([draw(2, 3), draw(5, 3)]))
    np.testing.assert_array_equal(whole.numpy(), generator(2, "defense", 9).random((7, 3)))


def test_uniforms_arrive_on_the_device():
    assert draw_source(0, "defense", 0, "meta")(3).device.type == "meta"


def test_global_generators_are_left_alone():
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 (that is the point)
    draw_source(0, "defense", 0, "cpu")(101)
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
