"""The C library's policy for memory that local training frees on a CPU. Only the command line sets it."""

import ctypes
import os
import sys
from functools import cache

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Parameters of glibc's ``mallopt``."""
MAPPED_BYTES = 32 * 2**20
"""M_MMAP_THRESHOLD: allocations from this size on use mmap and return to the OS when freed. 32 MiB is the maximum of
glibc's own dynamic threshold."""
KEPT_BYTES = 256 * 2**20
"""M_TRIM_THRESHOLD: bytes of freed memory that are kept at the top of the heap."""
SETTINGS = frozenset({"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"})
"""Environment variables by which a user sets this policy. If any is set, nothing is changed."""


@cache
def keep_freed_pages() -> bool:
    """Let glibc keep up to 256 MiB of freed memory in this process instead of returning all but a few MiB to the OS.

    Every step of every client frees its batch, activations and gradients and allocates as much again. Pages that were
    returned to the kernel come back zeroed, at one page fault each: a tenth of a round of the LSTM.

    Returns:
        whether the policy was set. False with another C library, or if the environment sets a policy.

    Example:
        >>> keep_freed_pages() == keep_freed_pages()
        True

    Source: the GNU C library's manual, "Malloc Tunable Parameters".
    """
    if sys.platform != "linux" or SETTINGS & os.environ.keys():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, MAPPED_BYTES) and mallopt(_TRIM_THRESHOLD, KEPT_BYTES))
