"""The rates of the machine, which determine the floors."""

import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_info

from benchmarks.speed.measure import Rates
from benchmarks.speed.peers.contract import peak_bytes

BEST_OF = 5


def best(action: Callable[[], Any]) -> float:
    """Return the seconds of the fastest of several calls after a warm-up: a rate is an upper limit."""
    action()
    seconds = []
    for _ in range(BEST_OF):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def processor() -> str:
    """Return the name of the processor."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def openblas() -> str:
    """Return the kernels of numpy's matrix product: a bad choice would make numpy look slow."""
    found = {f"{pool['internal_api']} {pool.get('architecture', '')}".strip() for pool in threadpool_info()}
    return ", ".join(sorted(name for name in found if not name.startswith("openmp")))


def measure_rates(group: str, threads: int, side: int = 2048, numbers: int = 2**26) -> Rates:
    """Measure in this process, which was started with this number of threads.

    Args:
        group: group of the cases that are measured next.
        threads: number of threads of this process.
        side: side of the square matrices.
        numbers: size of the float32 array that is copied; twice as many numbers are read.
    """
    imported = peak_bytes()
    torch.set_num_threads(threads)
    stream = np.random.default_rng(0)
    a, b = (stream.standard_normal((side, side), dtype=np.float32) for _ in range(2))
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    source, target = torch.ones(2 * numbers), torch.empty(numbers)
    images, kernel = torch.randn(20, 32, 14, 14), torch.randn(64, 32, 3, 3)
    products, convolved = 2 * side**3, 2 * 20 * 14 * 14 * 64 * 32 * 9
    return Rates(
        **{"group": group, "threads": threads, "processor": processor(), "python": platform.python_version()},
        **{"torch": torch.__version__, "numpy": f"{np.__version__}, {openblas()}"},
        read=_figures(source.nbytes / best(source.sum)),
        copy=_figures(2 * target.nbytes / best(lambda: target.copy_(source[:numbers]))),
        matrix_torch=_figures(products / best(lambda: x @ y)),
        matrix_numpy=_figures(products / best(lambda: a @ b)),
        convolution=_figures(
            convolved / best(lambda: [torch.conv2d(images, kernel, padding=1) for _ in range(20)]) * 20
        ),
        imported=imported,
    )


def _figures(rate: float) -> float:
    return float(f"{rate:.4g}")
