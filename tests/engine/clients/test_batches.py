"""Legend of the suffixes: N clients, S local steps, B batch."""

import math
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rflbat.clients.batches import draw_batches

property_test = settings(derandomize=True, deadline=None, max_examples=60)


def draw(sizes, malicious=None, *, seed=0, steps=7, batch=5, share=0.5, drop_last=False):
    """The plan of clients whose samples are 100, 102, 104, ... in the training set, drawn in turn."""
    ends = np.cumsum(sizes)
    samples = [100 + 2 * np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    malicious_N = np.zeros(len(sizes), bool) if malicious is None else np.array(malicious)
    stream = np.random.default_rng(seed)
    settings = {"steps": steps, "batch": batch, "poison_fraction": share, "drop_last": drop_last}
    return samples, draw_batches(samples, malicious_N, stream, **settings)


def used(draws, client):
    """The samples of each step of a client, padding left out, in order."""
    pairs = zip(draws.index_NSB[client], draws.weight_NSB[client], strict=True)
    return [index_B[weight_B > 0].tolist() for index_B, weight_B in pairs]


@property_test
@given(st.lists(st.integers(1, 23), min_size=1, max_size=5), st.integers(1, 13), st.integers(1, 11), st.integers(0, 99))
def test_an_epoch_uses_every_sample_exactly_once(sizes, steps, batch, seed):
    samples, draws = draw(sizes, seed=seed, steps=steps, batch=batch)
    for client, own in enumerate(samples):
        batches = used(draws, client)
        per_epoch = math.ceil(len(own) / batch)
        for first in range(0, steps, per_epoch):
            epoch = batches[first : first + per_epoch]
            seen = sorted(chain.from_iterable(epoch))
            if len(epoch) == per_epoch:
                assert seen == own.tolist()
            else:
                assert len(set(seen)) == len(seen)
                assert set(seen) <= set(own.tolist())


@property_test
@given(st.lists(st.integers(1, 23), min_size=1, max_size=5), st.integers(1, 13), st.integers(1, 11))
def test_batches_are_full_but_the_last_of_an_epoch(sizes, steps, batch):
    _, draws = draw(sizes, steps=steps, batch=batch)
    for client, size in enumerate(sizes):
        lengths = [batch] * (size // batch) + [size % batch] * (size % batch > 0)
        expected = (lengths * steps)[:steps]
        assert [len(step) for step in used(draws, client)] == expected


@property_test
@given(st.lists(st.integers(1, 23), min_size=1, max_size=5), st.integers(1, 13), st.integers(1, 11))
def test_drop_last_leaves_out_short_batches_unless_a_client_has_no_other(sizes, steps, batch):
    samples, draws = draw(sizes, steps=steps, batch=batch, drop_last=True)
    for client, own in enumerate(samples):
        batches = used(draws, client)
        assert [len(step) for step in batches] == [min(batch, len(own))] * steps
        per_epoch = max(1, len(own) // batch)
        for first in range(0, steps, per_epoch):
            seen = list(chain.from_iterable(batches[first : first + per_epoch]))
            assert len(set(seen)) == len(seen)
            assert set(seen) <= set(own.tolist())


def test_a_sample_that_was_left_out_comes_in_a_later_epoch():
    samples, draws = draw([11], steps=40, batch=5, drop_last=True)
    assert set(chain.from_iterable(used(draws, 0))) == set(samples[0].tolist())


def test_the_plan_is_padded_at_the_end_with_weight_0():
    samples, draws = draw([1, 3, 13, 64], steps=4, batch=5)
    assert draws.index_NSB.shape == draws.weight_NSB.shape == draws.poisoned_NSB.shape == (4, 4, 5)
    assert (draws.index_NSB.dtype, draws.weight_NSB.dtype, draws.poisoned_NSB.dtype) == (
        torch.int64,
        torch.float32,
        torch.bool,
    )
    assert set(draws.weight_NSB.unique().tolist()) == {0.0, 1.0}
    assert (draws.weight_NSB.diff(dim=-1) <= 0).all()
    for client, own in enumerate(samples):
        assert set(draws.index_NSB[client].flatten().tolist()) <= set(own.tolist())  # padding is a sample of its own
    assert used(draws, 0) == [[samples[0][0]]] * 4


def test_every_epoch_is_shuffled_anew():
    samples, draws = draw([101], steps=3 * 21, batch=5)
    batches = used(draws, 0)
    orders = [list(chain.from_iterable(batches[epoch * 21 : (epoch + 1) * 21])) for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert samples[0].tolist() not in orders


def test_clients_of_equal_size_draw_different_orders():
    samples, draws = draw([21, 21], steps=5, batch=5)
    order_NB = [np.concatenate(used(draws, client)) - samples[client][0] for client in range(2)]
    assert order_NB[0].tolist() != order_NB[1].tolist()


def test_the_stream_alone_decides():
    first, second, other = draw([7, 21])[1], draw([7, 21])[1], draw([7, 21], seed=1)[1]
    assert torch.equal(first.index_NSB, second.index_NSB)
    assert not torch.equal(first.index_NSB, other.index_NSB)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_the_share_of_each_malicious_batch_is_poisoned(share):
    malicious = [True, False, True, True]
    _, draws = draw([1, 13, 14, 23], malicious, steps=9, batch=5, share=share)
    count_NS = draws.weight_NSB.sum(-1)
    expected_NS = torch.floor(share * count_NS + 0.5) * torch.tensor(malicious)[:, None]
    assert torch.equal(draws.poisoned_NSB.sum(-1), expected_NS.to(torch.int64))
    assert not (draws.poisoned_NSB & (draws.weight_NSB == 0)).any()


def test_half_of_a_paper_batch_is_poisoned():
    _, draws = draw([601, 601], [True, False], steps=10, batch=60)
    assert draws.poisoned_NSB.sum(-1).tolist() == [[30] * 10, [0] * 10]


def test_the_poisoned_half_is_random():
    samples, draws = draw([63], [True], steps=400, batch=63)
    times = np.bincount(draws.index_NSB[draws.poisoned_NSB].numpy(), minlength=300)[samples[0]]
    # 32 of 63 in each of 400 epochs: mean 203.2, standard deviation 10; the extreme of 63 is within 4 of them.
    assert times.sum() == 400 * 32
    assert abs(times - 203.2).max() < 40
    assert times.std() > 4


def test_roles_and_share_change_no_draw():
    plans = [
        draw([1, 13, 14], malicious, share=share)[1]
        for malicious in ([False] * 3, [True] * 3, [False, True, False])
        for share in (0.5, 1.0)
    ]
    for draws in plans[1:]:
        assert torch.equal(draws.index_NSB, plans[0].index_NSB)
        assert torch.equal(draws.weight_NSB, plans[0].weight_NSB)


def test_samples_are_not_written_to():
    samples, _ = draw([5, 13], [True, True])
    assert np.concatenate(samples).tolist() == list(range(100, 136, 2))


def test_a_plan_moves_as_a_whole():
    moved = draw([5])[1].to("meta")
    assert {tensor.device.type for tensor in (moved.index_NSB, moved.weight_NSB, moved.poisoned_NSB)} == {"meta"}
