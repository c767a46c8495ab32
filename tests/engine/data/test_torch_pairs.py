"""Data sets made of torch data sets: values, storage and mistakes."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import TensorDataset

from rflbat.data import from_torch
from rflbat.data.base import as_inputs
from rflbat.errors import UserError


def pairs(count=5, shape=(1, 4, 4), dtype=torch.float32):
    draws = torch.Generator().manual_seed(0)
    x = torch.rand(count, *shape, generator=draws)
    x = (x * 255).to(dtype) if dtype == torch.uint8 else x.to(dtype)
    return TensorDataset(x, torch.arange(count) % 3)


def test_floats_are_kept():
    data = from_torch(pairs(), pairs(4), name="mine")
    assert (data.name, data.classes, data.shape, data.train_x.dtype) == ("mine", 3, (1, 4, 4), torch.float32)
    assert torch.equal(as_inputs(data.train_x, data), pairs().tensors[0])
    assert (data.low, data.high) == (float(pairs().tensors[0].min()), float(pairs().tensors[0].max()))


def test_bytes_are_stored_as_bytes_and_fed_as_shares():
    data = from_torch(pairs(dtype=torch.uint8), pairs(4, dtype=torch.uint8), mean=0.5, std=0.25)
    assert data.train_x.dtype == torch.uint8
    wanted = (pairs(dtype=torch.uint8).tensors[0].double() / 255 - 0.5) / 0.25
    torch.testing.assert_close(as_inputs(data.train_x, data).double(), wanted, rtol=0, atol=1e-6)


def test_images_and_arrays_get_their_channels_first():
    array = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    data = from_torch([(Image.fromarray(array), 0)], [(Image.fromarray(array), 1)])
    assert data.shape == (3, 4, 6)
    assert torch.equal(data.train_x[0], torch.from_numpy(array).movedim(-1, 0))
    grey = from_torch([(array[..., 0], np.int64(0))], [(array[..., 0], 1)])
    assert grey.shape == (1, 4, 6)


def test_a_data_set_of_torchvision():
    transform = torchvision.transforms.ToTensor()
    fake = torchvision.datasets.FakeData(6, (3, 8, 8), 4, transform)
    data = from_torch(fake, fake, classes=4)
    assert (data.shape, data.classes, len(data.train_x)) == ((3, 8, 8), 4, 6)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], "the training data set is empty"),
        ([(torch.zeros(1, 4, 4), 0), (torch.zeros(1, 4, 5), 0)], "training sample 1 has the shape"),
        ([("text", 0)], "training sample 0 is a str"),
        ([(torch.zeros(1, 4, 4), 0.5)], "training label 0 is 0.5"),
        ([(torch.zeros(1, 4, 4), -1)], "training label 0 is -1"),
        ([(torch.zeros(1, 4, 4), 7)], "label 7 is out of range; allowed: 0 to 2"),
        ([(torch.zeros(2, 4, 4), 0)], "in training and"),
        ([(3.0, 0)], "is a single number"),
    ],
)
def test_mistakes(train, message):
    with pytest.raises(UserError, match=message):
        from_torch(train, pairs(4), classes=3)
