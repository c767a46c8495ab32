"""Baselines without rflbat: a loop of PyTorch modules, and RFLBAT in numpy and scikit-learn.

Axes: N clients of the round, D parameters.
"""

import copy
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Batch = tuple[Tensor, Tensor]


def train_client(model: nn.Module, batches: Iterable[Batch], lr: float) -> nn.Module:
    """Train a copy of the global model with ``torch.optim.SGD``.

    Args:
        model: the global model; not modified.
        batches: samples and labels of each step.
        lr: learning rate.

    Returns:
        the local model.
    """
    local = copy.deepcopy(model)
    optimizer = torch.optim.SGD(local.parameters(), lr=lr)
    for x_B, labels_B in batches:
        optimizer.zero_grad()
        cross_entropy(local(x_B), labels_B).backward()
        optimizer.step()
    return local


def plain_round(model: nn.Module, clients: Iterable[Iterable[Batch]], count: int, lr: float) -> None:
    """Train one client after the other and set the global model to the mean of their models.

    Args:
        model: the global model; overwritten.
        clients: the batches of each client.
        count: number of clients.
        lr: learning rate.
    """
    total: dict[str, Tensor] = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    for batches in clients:
        for name, value in train_client(model, batches, lr).state_dict().items():
            total[name] += value / count
    model.load_state_dict(total)


def shuffled(x: Tensor, y: Tensor, batch: int) -> Iterable[Batch]:
    """Shuffle a client's samples and split them into batches."""
    for index_B in torch.randperm(len(x)).split(batch):
        yield x[index_B], y[index_B]


def flat(model: nn.Module) -> Tensor:
    """Return all parameters of a module as one vector ``(D,)``."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def _far(points: NDArray[np.float64], limit: float) -> NDArray[np.bool_]:
    spread = np.linalg.norm(points[:, None] - points[None], axis=2).sum(1)
    return spread > limit * np.median(spread)


def _clusters(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Run k-means with the number of clusters, 2 to 10, that has the largest mean silhouette."""
    distinct = len(np.unique(points, axis=0))
    if len(points) < 3 or distinct < 3:
        return np.zeros(len(points), np.int64)
    labels = [KMeans(k, n_init=10, random_state=0).fit_predict(points) for k in range(2, min(10, distinct - 1) + 1)]
    return max(labels, key=lambda found: silhouette_score(points, found))


def kept_by_rflbat(
    points: NDArray[np.float64],
    cosines: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    eps1: float = 10.0,
    eps2: float = 4.0,
) -> NDArray[np.bool_]:
    """Compute which clients algorithm 1 keeps, from the coordinates in the plane of principal components.

    Args:
        points: ``(N, 2)`` coordinates.
        cosines: positions of clients -> cosines of their updates.
        eps1: threshold of the first filter.
        eps2: threshold of the second.

    Returns:
        ``(N,)``, True for kept clients.

    Source: Wang et al. 2022, algorithm 1.
    """
    left = np.flatnonzero(~_far(points, eps1))
    labels = _clusters(points[left])
    scores = []
    for label in range(labels.max() + 1):
        members = left[labels == label]
        alone = len(members) == 1
        scores.append(2.0 if alone else np.median((cosines(members).sum(1) - 1) / (len(members) - 1)))
    chosen = left[labels == int(np.argmin(scores))]
    kept = np.zeros(len(points), bool)
    kept[chosen[~_far(points[chosen], eps2)]] = True
    return kept


def sklearn_rflbat(updates: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run the server steps of algorithm 1 with scikit-learn's PCA, KMeans and cosine similarity.

    Args:
        updates: ``(N, D)``.

    Returns:
        ``(D,)``, the mean of the kept updates.
    """
    points = PCA(2).fit_transform(updates)
    return updates[kept_by_rflbat(points, lambda members: cosine_similarity(updates[members]))].mean(0)
