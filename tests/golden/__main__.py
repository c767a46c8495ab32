"""Pin the golden numbers anew: `python -m tests.golden`, with `engine:kernels:.` in PYTHONPATH or rflbat installed.

It runs every run in `runs.py`, rewrites `golden.json`, and lists the numbers that moved. A commit that holds another
`golden.json` says in its message which numbers moved and why; a refactoring moves none.

Afterwards run `python -m pytest tests/golden` also with ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2
ONEDNN_MAX_CPU_ISA=AVX2 in the environment, and with ATEN_CPU_CAPABILITY=default: a run that then differs stands near a
tie, and needs other settings.
"""

import sys
import tempfile
import time
from pathlib import Path

from tests.golden.account import moved, one_thread, play, read, write
from tests.golden.runs import RUNS


def main() -> None:
    one_thread()
    before, now = read(), {}
    for name, golden in RUNS.items():
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as place:
            now[name] = play(golden, Path(place))
        lines = moved(before[name], now[name]) if name in before else ["pinned for the first time"]
        sys.stdout.write(f"{name} ({time.perf_counter() - started:.1f} s): {'; '.join(lines) or 'unmoved'}\n")
        sys.stdout.flush()
    write(now)


if __name__ == "__main__":
    main()
