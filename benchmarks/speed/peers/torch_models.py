"""The three models as torch modules, and their loss over all clients, for the peers that run on torch."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.speed.workloads import Workload, make_data

TEXT = (100, 100, 64)
"""Embedding, LSTM units and the hidden linear layer of W3."""


class TextModel(nn.Module):
    """Embedding, LSTM, its last output, two linear layers."""

    def __init__(self, words: int, classes: int) -> None:
        super().__init__()
        embedded, units, hidden = TEXT
        self.embedding = nn.Embedding(words, embedded)
        self.lstm = nn.LSTM(embedded, units, batch_first=True)
        self.head = nn.Sequential(nn.Linear(units, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits ``(batch, classes)`` of tokens ``(batch, length)``."""
        outputs, _ = self.lstm(self.embedding(tokens))
        return self.head(outputs[:, -1])


def torch_model(workload: Workload, seed: int = 0) -> nn.Module:
    """Build the module of a workload with torch's default initialisation.

    Args:
        workload: a member of ``WORKLOADS``.
        seed: seed of the initial values.
    """
    torch.manual_seed(seed)
    if workload.words:
        return TextModel(workload.words, workload.classes)
    if len(workload.shape) == 1:
        return nn.Linear(workload.shape[0], workload.classes)
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 7, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 7 * 7, workload.classes)),
    )


def torch_data(workload: Workload, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return ``make_data`` as tensors."""
    x, y = make_data(workload, seed)
    return torch.from_numpy(x), torch.from_numpy(y)


@torch.no_grad()
def mean_loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Compute the mean cross-entropy over all clients' data, one client at a time.

    Args:
        model: the global model.
        x: ``(clients, samples, *shape)``.
        y: ``(clients, samples)``.
    """
    losses = [cross_entropy(model(x_client), y_client) for x_client, y_client in zip(x, y, strict=True)]
    return float(torch.stack(losses).mean())
