"""Definition of ``masked_median``, in plain float64 and without care for speed or memory."""

import math

import torch
from torch import Tensor


def masked_median(values: Tensor, valid: Tensor, dim: int = -1) -> Tensor:
    """Compute ``(v_{(n-1) // 2} + v_{n // 2}) / 2`` of the n valid entries ``v_0 <= .. <= v_{n-1}`` along an axis.

    NaN if n = 0 or if a valid entry is NaN.
    """
    values, valid = values.to(torch.float64).movedim(dim, -1), valid.expand_as(values).movedim(dim, -1)
    medians, shape = [], (math.prod(values.shape[:-1]), values.shape[-1])
    for line, mask in zip(values.reshape(shape), valid.reshape(shape), strict=True):
        v, n = line[mask].sort().values, int(mask.sum())
        unknown = n == 0 or bool(v.isnan().any())
        medians.append(torch.nan if unknown else float(v[(n - 1) // 2] + v[n // 2]) / 2)
    return torch.tensor(medians, dtype=torch.float64).view(values.shape[:-1])
