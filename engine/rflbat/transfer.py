"""Several tensors to another device in one copy: between host and device the number of copies counts, not their size.

Axes: P packed bytes.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes to a multiple of which each tensor's place in the buffer begins, so that any type can be read there."""


def transfer(tensors: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """Copy tensors to a device, all of them together as one block of bytes.

    The block goes out of page-locked memory and the host does not wait for its arrival, which the device's own queue
    orders before all that uses it. On the way back the host waits, once.

    Args:
        tensors: name -> tensor of any type and shape; all on one device.
        device: where they are wanted.

    Returns:
        name -> equal tensor there, contiguous; the given ones where they lie there already.

    Raises:
        ValueError: they lie on several devices.

    Example:
        >>> there = transfer({"ids": torch.tensor([3, 5]), "one": torch.tensor(True)}, "meta")
        >>> there["ids"].dtype, there["one"].shape, there["one"].device.type
        (torch.int64, torch.Size([]), 'meta')
    """
    here = {tensor.device for tensor in tensors.values()}
    if len(here) > 1:
        raise ValueError(f"the tensors lie on {', '.join(sorted(map(str, here)))}; allowed: one device")
    wanted = torch.device(device)
    if all(each.type == wanted.type and wanted.index in (None, each.index) for each in here):
        return dict(tensors)
    source = here.pop()
    total = sum(_room(tensor) for tensor in tensors.values())
    outward = source.type == "cpu" and wanted.type == "cuda"
    packed_P = torch.empty(total, dtype=torch.uint8, device=source, pin_memory=outward)
    for name, place in _places(packed_P, tensors):
        place.copy_(tensors[name])
    return dict(_places(packed_P.to(wanted, non_blocking=outward), tensors))


def _room(tensor: Tensor) -> int:
    """Bytes that a tensor takes in the block."""
    return -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT


def _places(packed_P: Tensor, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Give each tensor's place in a block, as a view of its type and shape."""
    start = 0
    for name, tensor in tensors.items():
        stop = start + tensor.numel() * tensor.element_size()
        yield name, packed_P[start:stop].view(tensor.dtype).view(tensor.shape)
        start += _room(tensor)
