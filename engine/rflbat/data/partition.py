"""Division of the training samples among clients."""

import numpy as np
import numpy.typing as npt

from rflbat.data.registry import PARTITIONS
from rflbat.errors import UserError, nearest

_LARGEST_ALPHA = 1e9  # numpy's draw overflows far beyond; every such alpha means equal shares

Indices = npt.NDArray[np.int64]


def partition(
    kind: str,
    labels: npt.NDArray[np.integer],
    clients: int,
    alpha: float,
    rng: np.random.Generator,
    writers: npt.NDArray[np.integer] | None = None,
) -> list[Indices]:
    """Divide samples among clients: each sample to exactly one of them, nobody left empty.

    * `iid`: the samples are shuffled and drawn in shares whose sizes differ by at most one.
    * `dirichlet`: for each class c, shares p_c ~ Dirichlet(alpha, ..., alpha) over the clients; the shuffled samples
      of c are cut at floor(n_c * cumsum(p_c) + u_c), u_c uniform in [0, 1). So clients differ in class AND in
      quantity; small alpha is skewed, large alpha nearly even. A client left with nothing is then given one random
      sample of the client that has most at that moment (of equals the first).
    * `natural`: one writer is one client, in the order of writer ids. With fewer clients than writers, `rng` chooses
      which writers take part, and the partition covers every sample of those and of nobody else.

    Args:
        kind: "iid", "dirichlet" or "natural".
        labels: (n,) classes of the samples, any integers.
        clients: how many clients, 1..n (natural: 1..number of writers).
        alpha: concentration of the Dirichlet distribution, 0 < alpha <= 1e9; read by `dirichlet` only.
        rng: the only source of randomness: the same state gives the same partition.
        writers: (n,) who wrote each sample, any integers; read by `natural` only.

    Returns:
        One ascending int64 array of sample numbers for each client.

    Raises:
        UserError: unknown kind, impossible number of clients, alpha out of range, or no writers.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1, 1])
        >>> parts = partition("iid", labels, 3, 1.0, np.random.default_rng(0))
        >>> [len(part) for part in parts], np.sort(np.concatenate(parts)).tolist()
        ([3, 2, 2], [0, 1, 2, 3, 4, 5, 6])

    Source: T.-M. H. Hsu, H. Qi, M. Brown, Measuring the effects of non-identical data distribution for federated
    visual classification, 2019 (arXiv:1909.06335) draws over classes per client; here, as in E. Bagdasaryan et al.,
    How to backdoor federated learning, 2020, the draw is over clients per class.
    """
    if kind not in PARTITIONS:
        raise UserError(f"unknown partition {kind!r}{nearest(kind, PARTITIONS)}; known: {', '.join(PARTITIONS)}")
    if clients < 1:
        raise UserError(f"clients is {clients}, allowed: at least 1")
    if kind == "natural":
        parts = _natural(clients, rng, len(labels), writers)
    elif clients > len(labels):
        raise UserError(f"clients is {clients}, allowed: at most {len(labels)}, the number of training samples")
    elif kind == "iid":
        parts = np.array_split(rng.permutation(len(labels)), clients)
    else:
        parts = _dirichlet(labels, clients, alpha, rng)
    return [np.sort(part).astype(np.int64, copy=False) for part in parts]


def _dirichlet(labels: npt.NDArray[np.integer], clients: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    if not 0 < alpha <= _LARGEST_ALPHA:
        raise UserError(f"alpha is {alpha}, allowed: greater than 0, at most {_LARGEST_ALPHA:g}")
    shares: list[list[Indices]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        samples = rng.permutation(np.flatnonzero(labels == label))
        ends = np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1]
        # The offset makes every client's expected share exact. Without it, near-equal shares of a small class are
        # rounded alike in all classes, and the same clients come out short each time.
        cuts = np.floor(len(samples) * ends + rng.random()).astype(np.int64)
        for share, piece in zip(shares, np.split(samples, cuts), strict=True):
            share.append(piece)
    return _nobody_empty([np.concatenate(share) for share in shares], rng)


def _nobody_empty(parts: list[Indices], rng: np.random.Generator) -> list[Indices]:
    """Give each empty client one random sample of the client that has most at that moment."""
    sizes = np.array([len(part) for part in parts])
    for poor in np.flatnonzero(sizes == 0):
        rich = int(np.argmax(sizes))
        given = rng.integers(sizes[rich])
        parts[poor] = parts[rich][given : given + 1].copy()
        # Order within a client is free, so the last sample fills the gap instead of everything moving up.
        parts[rich][given] = parts[rich][sizes[rich] - 1]
        sizes[rich] -= 1
        sizes[poor] = 1
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def _natural(
    clients: int, rng: np.random.Generator, samples: int, writers: npt.NDArray[np.integer] | None
) -> list[Indices]:
    if writers is None:
        raise UserError(
            "the natural partition needs to know who wrote each sample, and this data set (or what was found of it) "
            "does not say; femnist and imdb do; for mnist put qmnist-train-labels-idx2-int.gz in DIR/mnist_writers; "
            "for amazon every table that is read must give the UserId of each review: --dataset-arg files=Reviews.csv "
            "reads Kaggle's alone"
        )
    if len(writers) != samples:
        raise UserError(f"{len(writers)} writers for {samples} samples, expected one for each sample")
    known, owner = np.unique(writers, return_inverse=True)
    if clients > len(known):
        raise UserError(f"clients is {clients}, allowed: at most {len(known)}, the number of writers")
    chosen = np.sort(rng.choice(len(known), clients, replace=False))
    by_writer = np.split(np.argsort(owner), np.cumsum(np.bincount(owner))[:-1])
    return [by_writer[writer] for writer in chosen]
