"""Partitions of the training samples among clients."""

import numpy as np
import numpy.typing as npt

from rflbat.data.registry import PARTITIONS
from rflbat.errors import UserError, nearest

_LARGEST_ALPHA = 1e9  # numpy's draw overflows far above; any such alpha means equal shares

Indices = npt.NDArray[np.int64]


def partition(
    kind: str,
    labels: npt.NDArray[np.integer],
    clients: int,
    alpha: float,
    rng: np.random.Generator,
    writers: npt.NDArray[np.integer] | None = None,
) -> list[Indices]:
    """Divide samples among clients: each sample belongs to exactly one client, and no client is empty.

    * ``iid``: the samples are shuffled and divided into shares whose sizes differ by at most one.
    * ``dirichlet``: for each class c, shares p_c ~ Dirichlet(alpha, ..., alpha) over the clients; the shuffled samples
      of c are cut at floor(n_c * cumsum(p_c) + u_c), u_c uniform in [0, 1). Clients therefore differ in classes AND in
      quantity; small alpha is skewed, large alpha nearly even. Each empty client then gets one random sample of the
      client that has most at that moment (the first of equals).
    * ``natural``: one writer is one client, in the order of writer ids. With fewer clients than writers, ``rng``
      chooses which writers take part, and the partition covers exactly the samples of those writers.

    Args:
        kind: "iid", "dirichlet" or "natural".
        labels: (n,) classes of the samples, any integers.
        clients: number of clients, 1..n (natural: 1..number of writers).
        alpha: concentration of the Dirichlet distribution, 0 < alpha <= 1e9; used by ``dirichlet`` only.
        rng: the only source of randomness; the same state gives the same partition.
        writers: (n,) writer of each sample, any integers; used by ``natural`` only.

    Returns:
        one ascending int64 array of sample indices per client.

    Raises:
        UserError: the kind is unknown, the number of clients impossible, alpha out of range, or writers are missing.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1, 1])
        >>> parts = partition("iid", labels, 3, 1.0, np.random.default_rng(0))
        >>> [len(part) for part in parts], np.sort(np.concatenate(parts)).tolist()
        ([3, 2, 2], [0, 1, 2, 3, 4, 5, 6])

    Source: T.-M. H. Hsu, H. Qi, M. Brown, Measuring the effects of non-identical data distribution for federated
    visual classification, 2019 (arXiv:1909.06335) draws over classes per client; this function draws over clients per
    class, as in E. Bagdasaryan et al., How to backdoor federated learning, 2020.
    """
    if kind not in PARTITIONS:
        raise UserError(f"unknown partition {kind!r}{nearest(kind, PARTITIONS)}; known: {', '.join(PARTITIONS)}")
    if clients < 1:
        raise UserError(f"clients is {clients}; allowed: at least 1")
    if kind == "natural":
        parts = _natural(clients, rng, len(labels), writers)
    elif clients > len(labels):
        raise UserError(f"clients is {clients}; allowed: at most {len(labels)}, the number of training samples")
    elif kind == "iid":
        parts = np.array_split(rng.permutation(len(labels)), clients)
    else:
        parts = _dirichlet(labels, clients, alpha, rng)
    return [np.sort(part).astype(np.int64, copy=False) for part in parts]


def _dirichlet(labels: npt.NDArray[np.integer], clients: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    if not 0 < alpha <= _LARGEST_ALPHA:
        raise UserError(f"alpha is {alpha}; allowed: greater than 0, at most {_LARGEST_ALPHA:g}")
    shares: list[list[Indices]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        samples = rng.permutation(np.flatnonzero(labels == label))
        ends = np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1]
        # The offset makes every client's expected share exact. Without it, near-equal shares of a small class are
        # rounded alike in all classes, and the same clients get fewer samples each time.
        cuts = np.floor(len(samples) * ends + rng.random()).astype(np.int64)
        for share, piece in zip(shares, np.split(samples, cuts), strict=True):
            share.append(piece)
    return _nobody_empty([np.concatenate(share) for share in shares], rng)


def _nobody_empty(parts: list[Indices], rng: np.random.Generator) -> list[Indices]:
    """Move one random sample of the largest client to each empty client."""
    sizes = np.array([len(part) for part in parts])
    for poor in np.flatnonzero(sizes == 0):
        rich = int(np.argmax(sizes))
        given = rng.integers(sizes[rich])
        parts[poor] = parts[rich][given : given + 1].copy()
        # The order within a client does not matter, so the last sample fills the gap.
        parts[rich][given] = parts[rich][sizes[rich] - 1]
        sizes[rich] -= 1
        sizes[poor] = 1
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def _natural(
    clients: int, rng: np.random.Generator, samples: int, writers: npt.NDArray[np.integer] | None
) -> list[Indices]:
    if writers is None:
        raise UserError(
            "the natural partition needs to know who wrote each sample, which this data set (or the files found) does "
            "not provide; femnist and imdb do; for mnist put qmnist-train-labels-idx2-int.gz in DIR/mnist_writers; for "
            "amazon every table that is read must have the UserId of each review: --dataset-arg files=Reviews.csv "
            "reads Kaggle's only"
        )
    if len(writers) != samples:
        raise UserError(f"{len(writers)} writers for {samples} samples, expected one for each sample")
    known, owner = np.unique(writers, return_inverse=True)
    if clients > len(known):
        raise UserError(f"clients is {clients}; allowed: at most {len(known)}, the number of writers")
    chosen = np.sort(rng.choice(len(known), clients, replace=False))
    by_writer = np.split(np.argsort(owner), np.cumsum(np.bincount(owner))[:-1])
    return [by_writer[writer] for writer in chosen]
