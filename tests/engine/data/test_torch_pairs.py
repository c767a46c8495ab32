"""Data sets made of torch data sets: values, storage and mistakes."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import TensorDataset

from rflbat import Experiment, run
from rflbat.data import from_torch
from rflbat.data.base import Dataset, as_inputs
from rflbat.errors import UserError

FLOATS = (torch.float16, torch.float64)


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
        ([([1.0, [2.0]], 0)], "training sample 0 is a list of unequal parts"),
        ([(torch.zeros(1, 4, 4), 0), (torch.zeros(1, 4, 4).byte(), 0)], "training sample 1 has the type torch.uint8"),
        ([(torch.zeros(1, 4, 4).byte(), 0)], "type torch.uint8 in the training set and torch.float32 in the test set"),
        ([(torch.full((1, 4, 4), torch.inf), 0)], "training sample 0 holds a NaN or an infinity"),
        ([(torch.full((1, 4, 4), 1e300, dtype=torch.float64), 0)], "training sample 0 holds a NaN or an infinity"),
        ([(torch.zeros(1, 4, 4, dtype=torch.complex64), 0)], "allowed: real numbers"),
        ([(torch.zeros(1, 0, 4), 0)], "at least one axis and one number"),
        ([(Image.new("P", (4, 4)), 0)], "an image with a palette"),
        ([torch.zeros(1, 4, 4)], "training item 0 is a Tensor; allowed: pairs"),
        ([(torch.zeros(1, 4, 4), True)], "training label 0 is True"),
        ([(torch.zeros(1, 4, 4), "cat")], "training label 0 is 'cat'"),
        ([(torch.zeros(1, 4, 4), torch.tensor([0, 1]))], r"training label 0 is tensor\(\[0, 1\]\)"),
        (iter([(torch.zeros(1, 4, 4), 0)]), "a list_iterator without length or positions"),
        ([(torch.zeros(1, 4, 4), 0.5)], "training label 0 is 0.5"),
        ([(torch.zeros(1, 4, 4), -1)], "training label 0 is -1"),
        ([(torch.zeros(1, 4, 4), 7)], "label 7 is out of range; allowed: 0 to 2"),
        ([(torch.zeros(2, 4, 4), 0)], "shape .* in the training set and"),
        ([(3.0, 0)], r"has the shape \(\); allowed"),
    ],
)
def test_mistakes(train, message):
    with pytest.raises(UserError, match=message):
        from_torch(train, pairs(4), classes=3)


def test_a_single_label_is_refused():
    alone = [(torch.zeros(1, 4, 4), 0)]
    with pytest.raises(UserError, match="the number of labels is 1; allowed: at least 2"):
        from_torch(alone, alone)
    assert from_torch(alone, alone, classes=2).classes == 2


def test_floats_of_any_width_are_stored_as_float32():
    halves, doubles = (TensorDataset(torch.ones(2, 1, 4, 4, dtype=kind), torch.arange(2)) for kind in FLOATS)
    data = from_torch(halves, doubles)
    assert (data.train_x.dtype, data.test_x.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("label", [1, np.int32(1), np.array(1), np.array([1]), torch.tensor(1), torch.tensor([1])])
def test_integer_labels_of_any_kind_are_read(label):
    assert from_torch([(torch.zeros(1, 4, 4), label)], pairs(4)).train_y.tolist() == [1]


def test_arrays_of_another_byte_order_and_read_only_ones_are_read():
    array = np.arange(16, dtype=">f4").reshape(1, 4, 4)
    array.setflags(write=False)
    data = from_torch([(array, 0)], [(array, 1)])
    assert data.train_x.flatten().tolist() == list(range(16))


class Squares(torch.utils.data.Dataset):
    """A data set that counts how often it is read."""

    reads = 0

    def __len__(self):
        return 30

    def __getitem__(self, index):
        Squares.reads += 1
        return torch.full((1, 8, 8), index / 30), index % 3


def flat(data_dir) -> Dataset:
    """Grey squares."""
    return from_torch(Squares(), Squares(), name="flat", model="logistic")


def test_a_function_of_another_module_is_a_data_set_of_a_run():
    settings = {"dataset": f"{__name__}:flat", "clients": 5, "rounds": 2, "batch_size": 4, "augment": "crop,flip"}
    result = run(Experiment(**settings, defense="fedavg", device="cpu", attack="pixel"))
    assert result.params.shape == ((64 + 1) * 3,)
    assert Squares.reads == 60  # once each, however often the run uses them
