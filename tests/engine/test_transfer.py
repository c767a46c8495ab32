"""Many tensors in one copy: all types and shapes arrive as they left."""

import pytest
import torch

from rflbat.transfer import ALIGNMENT, _places, _room, transfer

TENSORS = {
    "one byte": torch.tensor([True, False, True]),
    "0-dimensional": torch.tensor(7, dtype=torch.int64),
    "float64": torch.rand(3, 5, dtype=torch.float64),
    "empty": torch.empty(0, 4),
    "transposed": torch.rand(4, 3).T,
    "expanded": torch.tensor([1.5, torch.nan]).expand(3, 2),
    "int64": torch.arange(11),
}


def test_what_lies_there_already_is_not_copied():
    there = transfer(TENSORS, "cpu")
    assert all(there[name] is tensor for name, tensor in TENSORS.items())
    assert transfer({}, "meta") == {}


def test_types_and_shapes_arrive():
    there = transfer(TENSORS, "meta")
    assert list(there) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert (there[name].dtype, there[name].shape) == (tensor.dtype, tensor.shape)
        assert there[name].is_contiguous()
        assert there[name].device.type == "meta"
    assert len({tensor.untyped_storage()._cdata for tensor in there.values()}) == 1


def test_values_arrive():
    """Packed and unpacked on the host: the copy between is torch's."""
    packed = torch.zeros(sum(map(_room, TENSORS.values())), dtype=torch.uint8)
    for name, place in _places(packed, TENSORS):
        place.copy_(TENSORS[name])
    found = dict(_places(packed.clone(), TENSORS))
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(found[name], tensor.contiguous(), rtol=0, atol=0, equal_nan=True)
        assert found[name].data_ptr() % ALIGNMENT == packed.data_ptr() % ALIGNMENT or not tensor.numel()


def test_tensors_of_several_devices_are_refused():
    with pytest.raises(ValueError, match="the tensors are on cpu, meta; allowed: one device"):
        transfer({"a": torch.zeros(1), "b": torch.zeros(1, device="meta")}, "cpu")


@pytest.mark.gpu
def test_values_come_back_from_a_device():
    there = transfer(TENSORS, "cuda")
    assert all(tensor.is_cuda for tensor in there.values())
    for name, tensor in transfer(there, "cpu").items():
        torch.testing.assert_close(tensor, TENSORS[name].contiguous(), rtol=0, atol=0, equal_nan=True)
