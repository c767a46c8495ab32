"""The most memory that this process has held so far."""

import resource
import sys

import torch


def peak_bytes(device: torch.device) -> int:
    """Say how much memory was needed at most: on a CUDA device what torch has allocated there, else of the process.

    Args:
        device: where the run works.

    Returns:
        bytes.

    Example:
        >>> peak_bytes(torch.device("cpu")) > 2**20
        True
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
