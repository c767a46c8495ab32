"""ByzPy 0.1.4: its aggregators on the benchmark's updates, in this process, without its pool of actors."""

import sys

import torch
from byzpy.aggregators.coordinate_wise import median, trimmed_mean
from byzpy.aggregators.geometric_wise import geometric_median, krum
from byzpy.pre_aggregators.clipping import Clipping

from benchmarks.speed.peers.contract import defense_parser
from benchmarks.speed.peers.defend import Aggregator, Choice, defend


def norm_clipping(bound: float) -> Aggregator:
    """Chain ByzPy's clipping and a trimmed mean without trimming, because it has no plain mean."""
    clip, mean = Clipping(bound), trimmed_mean.CoordinateWiseTrimmedMean(0)
    return lambda updates: mean.aggregate(clip.pre_aggregate(updates))


def main() -> None:
    options = defense_parser("byzpy").parse_args()
    if options.arrays != "torch":
        sys.exit("ByzPy: its only back end is torch")
    torch.set_num_threads(options.threads)
    f, bound, passes = options.f, options.bound, options.passes or 256
    taken = options.clients - f
    choices: dict[str, Choice] = {
        "krum": (lambda: krum.Krum(f=f).aggregate, {}),
        "multikrum": (lambda: krum.MultiKrum(f=f, q=taken).aggregate, {"q": taken}),
        # It starts from the coordinate-wise median and stops when a pass moves it by less than tol.
        "geomed": (
            lambda: geometric_median.GeometricMedian(tol=1e-6, max_iter=passes).aggregate,
            {"max_iter": passes, "tol": 1e-6},
        ),
        # torch's median: of an even number of clients the lower of the two middle values, not their mean.
        "median": (lambda: median.CoordinateWiseMedian().aggregate, {}),
        "trimmed_mean": (lambda: trimmed_mean.CoordinateWiseTrimmedMean(f).aggregate, {}),
        "norm_clipping": (lambda: norm_clipping(bound), {"threshold": bound}),
    }
    defend("byzpy", options, choices[options.defense], list_of_rows=True)


if __name__ == "__main__":
    main()
