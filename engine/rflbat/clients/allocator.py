"""The C library's policy for memory that local training frees on a CPU. The command line sets it, the library never."""

import ctypes
import os
import sys
from functools import cache

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Parameters of glibc's ``mallopt``."""
MAPPED_BYTES = 32 * 2**20
"""Blocks from this size on are mapped one by one and given back when freed; the most that glibc comes to by itself."""
KEPT_BYTES = 256 * 2**20
"""Freed memory at the end of the heap that is kept."""
SETTINGS = frozenset({"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"})
"""Variables by which a user says the same; then nothing is changed."""


@cache
def keep_freed_pages() -> bool:
    """Let glibc keep up to 256 MiB of freed memory in this process, where it would return all but a few MiB.

    Every step of every client frees its batch, its activations and its gradients and takes as much again. Pages that
    went back to the kernel come from it zeroed, one fault each: a tenth of a round of the LSTM.

    Returns:
        whether glibc was told: not with another C library, nor where the environment says what it shall do.

    Example:
        >>> keep_freed_pages() == keep_freed_pages()
        True

    Source: the GNU C library's manual, "Malloc Tunable Parameters".
    """
    if sys.platform != "linux" or SETTINGS & os.environ.keys():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, MAPPED_BYTES) and mallopt(_TRIM_THRESHOLD, KEPT_BYTES))
