"""A matrix whose last row starts beyond 2^31 elements; the host allocates only the touched pages."""

import mmap

import torch
from torch import Tensor

BEYOND = 2**31 + 12


def far_rows(values_ND: Tensor) -> Tensor:
    """Lay the same rows out so far apart that the last one starts beyond element 2^31.

    The distance itself is within 32 bits: only the product of row and distance is not.
    """
    rows, columns = values_ND.shape
    stride = BEYOND // (rows - 1) + 1
    memory = mmap.mmap(-1, (stride * (rows - 1) + columns) * values_ND.element_size())
    far_ND = torch.frombuffer(memory, dtype=values_ND.dtype).as_strided((rows, columns), (stride, 1))
    return far_ND.copy_(values_ND)
