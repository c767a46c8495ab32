"""Copy several small tensors to another device at once. The cost is in the number of copies, not in their size.

Axes: P packed bytes.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

ALIGNMENT = 16
"""Alignment in bytes of each tensor in the packed buffer, so that it can be viewed as any dtype."""


def transfer(tensors: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """Copy tensors to a device as one packed buffer.

    From the host to CUDA the buffer is in pinned memory and the host does not wait for the copy; the device's stream
    orders it before all later uses. In the other direction the host waits once.

    Args:
        tensors: name -> tensor of any dtype and shape; all on one device.
        device: target device.

    Returns:
        name -> equal contiguous tensor on the target device; the given tensors if they are on it already.

    Raises:
        ValueError: the tensors are on several devices.

    Example:
        >>> there = transfer({"ids": torch.tensor([3, 5]), "one": torch.tensor(True)}, "meta")
        >>> there["ids"].dtype, there["one"].shape, there["one"].device.type
        (torch.int64, torch.Size([]), 'meta')
    """
    here = {tensor.device for tensor in tensors.values()}
    if len(here) > 1:
        raise ValueError(f"the tensors are on {', '.join(sorted(map(str, here)))}; allowed: one device")
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
    """Return the bytes that a tensor takes in the packed buffer."""
    return -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT


def _places(packed_P: Tensor, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor's place in a packed buffer, as a view of its dtype and shape."""
    start = 0
    for name, tensor in tensors.items():
        stop = start + tensor.numel() * tensor.element_size()
        yield name, packed_P[start:stop].view(tensor.dtype).view(tensor.shape)
        start += _room(tensor)
