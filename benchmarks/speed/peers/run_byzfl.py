"""ByzFL 0.0.11: its aggregators on the benchmark's updates."""

import byzfl
import numpy as np
import torch

from benchmarks.speed.peers.contract import defense_parser
from benchmarks.speed.peers.defend import Aggregator, Choice, defend

ENOUGH = 8
"""Passes of the geometric median that converge to 1e-7 on the benchmark's updates; ByzFL's default is 3."""


def norm_clipping(bound: float) -> Aggregator:
    """Chain ByzFL's clipping, which overwrites its input, and its mean."""
    clip, mean = byzfl.Clipping(c=bound), byzfl.Average()
    return lambda updates: mean(clip(updates.copy() if isinstance(updates, np.ndarray) else updates.clone()))


def main() -> None:
    options = defense_parser("byzfl").parse_args()
    torch.set_num_threads(options.threads)
    f, bound, passes = options.f, options.bound, options.passes or ENOUGH
    choices: dict[str, Choice] = {
        "krum": (lambda: byzfl.Krum(f=f), {}),
        "multikrum": (lambda: byzfl.MultiKrum(f=f), {}),
        # It starts from 0 and has no convergence test.
        "geomed": (lambda: byzfl.GeometricMedian(nu=1e-6, T=passes), {"T": passes, "nu": 1e-6}),
        "median": (byzfl.Median, {}),
        "trimmed_mean": (lambda: byzfl.TrMean(f=f), {}),
        "norm_clipping": (lambda: norm_clipping(bound), {"c": bound}),
    }
    defend("byzfl", options, choices[options.defense], list_of_rows=False)


if __name__ == "__main__":
    main()
