"""Legend of the suffixes: N clients, D parameters."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rflbat.parameters import Layout

LAYOUT = Layout({"weight": (3, 7), "bias": (3,), "scale": (), "kernel": (1, 2, 5)})
SIZE = 21 + 3 + 1 + 10

property_test = settings(derandomize=True, deadline=None, max_examples=60)
shapes = st.lists(st.lists(st.integers(1, 5), max_size=3).map(tuple), min_size=1, max_size=5)


def test_size_counts_every_parameter():
    assert LAYOUT.size == SIZE


@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3)])
def test_views_name_the_parts_in_order(lead):
    flat = torch.randn(*lead, SIZE, generator=torch.Generator().manual_seed(0))
    expected, start = {}, 0
    for name, shape in LAYOUT.shapes.items():
        length = math.prod(shape)
        expected[name] = flat.numpy()[..., start : start + length].reshape((*lead, *shape))
        start += length
    views = LAYOUT.views(flat)
    assert list(views) == list(expected)
    for name, view in views.items():
        np.testing.assert_array_equal(view.numpy(), expected[name])


@property_test
@given(shapes, st.integers(1, 4))
def test_views_cover_the_buffer_once_and_share_its_memory(shapes, clients):
    layout = Layout({f"p{i}": shape for i, shape in enumerate(shapes)})
    buffer_ND = torch.zeros(clients, layout.size)
    for view in layout.views(buffer_ND).values():
        view.add_(1)
    assert torch.equal(buffer_ND, torch.ones(clients, layout.size))


def test_views_of_some_rows_write_into_the_whole_buffer():
    buffer_ND = torch.zeros(5, SIZE)
    LAYOUT.views(buffer_ND[1:3])["bias"].fill_(2)
    expected_ND = torch.zeros(5, SIZE)
    expected_ND[1:3, 21:24] = 2
    assert torch.equal(buffer_ND, expected_ND)


def test_views_of_a_part_of_wider_rows_share_its_memory():
    wide = torch.zeros(5, SIZE + 4)
    LAYOUT.views(wide[:, 2:-2])["scale"].fill_(3)
    assert wide.nonzero().tolist() == [[row, 2 + 24] for row in range(5)]


@property_test
@given(shapes)
def test_flatten_undoes_views_in_new_memory(shapes):
    layout = Layout({f"p{i}": shape for i, shape in enumerate(shapes)})
    flat_D = torch.arange(layout.size, dtype=torch.float64)
    joined_D = layout.flatten(layout.views(flat_D))
    assert torch.equal(joined_D, flat_D)
    joined_D.zero_()
    assert torch.equal(flat_D, torch.arange(layout.size, dtype=torch.float64))


def test_flatten_goes_by_the_order_of_the_layout():
    layout = Layout({"a": (2,), "b": (1, 3)})
    named = {"b": torch.tensor([[3.0, 4.0, 5.0]]), "a": torch.tensor([1.0, 2.0])}
    assert layout.flatten(named).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("length", [0, SIZE - 1, SIZE + 1])
def test_a_buffer_of_another_size_is_refused(length):
    with pytest.raises(ValueError, match=rf"^the buffer holds {length} parameters, but the layout has {SIZE}$"):
        LAYOUT.views(torch.zeros(2, length))
