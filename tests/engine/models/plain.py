"""The deep models as plain torch.nn modules, with parameters in the order of the engine's layouts."""

import torch
from torch import nn


def plain_cnn(shape: tuple[int, ...], classes: int, **options: object) -> nn.Module:
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 7, padding=3, **options),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, **options),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 2 // 2) * (width // 2 // 2), classes, **options),
    )


class PlainLSTM(nn.Module):
    def __init__(self, words: int, classes: int, **options: object) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 100, **options)
        self.lstm = nn.LSTM(100, 100, batch_first=True, **options)
        self.head = nn.Sequential(nn.Linear(100, 64, **options), nn.ReLU(), nn.Linear(64, classes, **options))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, (state_1BU, _) = self.lstm(self.embedding(x))
        return self.head(state_1BU[0])


def with_parameters(module: nn.Module, params_D: torch.Tensor) -> nn.Module:
    """Put a copy of a flat vector into a module."""
    nn.utils.vector_to_parameters(params_D.clone(), module.parameters())
    return module


def flat_gradient(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
