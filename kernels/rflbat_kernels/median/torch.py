"""Median of the valid entries along any axis, without synchronising with the device."""

import torch
from torch import Tensor


@torch.no_grad()
def masked_median(values: Tensor, valid: Tensor, dim: int = -1) -> Tensor:
    """Compute the median of the valid entries; for an even count, the mean of the two middle ones, as in numpy.

    Invalid entries are sorted to the end as +inf; the two middle positions follow from the number of valid entries.

    Args:
        values: any float type; invalid entries may hold anything. A valid NaN gives NaN.
        valid: bool, broadcastable to the shape of ``values``.
        dim: axis to reduce.

    Returns:
        float64 without that axis; NaN if no entry is valid.

    Raises:
        ValueError: ``values`` is not a float tensor or ``valid`` is not a bool tensor.

    Example:
        >>> masked_median(torch.tensor([3.0, torch.nan, 1.0, 2.0, 8.0]), torch.tensor([1, 0, 1, 1, 1]).bool()).item()
        2.5
    """
    if not values.is_floating_point() or valid.dtype != torch.bool:
        raise ValueError(f"values are {values.dtype} and valid is {valid.dtype}; allowed: float and torch.bool")
    valid = valid.expand_as(values)
    if values.shape[dim] == 0:
        return values.to(torch.float64).sum(dim) + torch.nan
    ordered = torch.where(valid, values, torch.inf).sort(dim).values
    count = valid.sum(dim, keepdim=True)
    below = ordered.gather(dim, (count - 1).clamp_min(0) // 2).to(torch.float64)
    above = ordered.gather(dim, count // 2).to(torch.float64)
    unknown = (count == 0) | (valid & values.isnan()).any(dim, keepdim=True)
    return torch.where(unknown, torch.nan, (below + above) / 2).squeeze(dim)
