"""Start-up of the commands that train nothing, beside ``import torch``: ``python -m benchmarks.startup``.

Each command runs in a process of its own, in turn with the others, and must succeed. The table has the median seconds
and the ratio to the floor, an interpreter that starts and ends, and to ``import torch``.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FLOOR, TORCH = "python -c pass", "python -c 'import torch'"


def commands(run: Path) -> dict[str, list[str]]:
    """List the measured commands.

    Args:
        run: folder of a finished run.

    Returns:
        label -> arguments of the interpreter.
    """
    rflbat = ["-m", "rflbat"]
    return {
        FLOOR: ["-c", "pass"],
        TORCH: ["-c", "import torch"],
        "rflbat --help": [*rflbat, "--help"],
        "rflbat list": [*rflbat, "list"],
        "rflbat show krum": [*rflbat, "show", "krum"],
        "rflbat watch RUN": [*rflbat, "watch", str(run)],
        "rflbat report --help": [*rflbat, "report", "--help"],
        "rflbat report RUN": [*rflbat, "report", str(run), "--quiet"],
    }


def measure(arguments: list[str]) -> float:
    """Run a command and return its seconds; a command that fails is an error."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        measure(["-m", "rflbat", "run", "--clients", "5", "--rounds", "2", "--quiet", "--out", str(run)])
        seconds: dict[str, list[float]] = {label: [] for label in commands(run)}
        for _ in range(repeats):
            for label, arguments in commands(run).items():
                seconds[label].append(measure(arguments))
    medians = {label: statistics.median(own) for label, own in seconds.items()}
    print("| command | seconds | of the floor | of import torch |\n|---|---:|---:|---:|")
    for label, median in medians.items():
        print(f"| `{label}` | {median:.2f} | {median / medians[FLOOR]:.1f} | {median / medians[TORCH]:.2f} |")


if __name__ == "__main__":
    main()
