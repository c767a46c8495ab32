"""Autoencoder: clients whose update a network that has learned clean updates cannot rebuild are dropped.

Axes: N clients of the round, M clean updates, D parameters, S surrogate coordinates, H hidden units, C code.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import linear

from rflbat.defenses.base import Decision, Defense, Updates, decide
from rflbat.errors import UserError
from rflbat.randomness import Draw
from rflbat_kernels import finite_rows
from rflbat_kernels.sharding import all_columns, select_columns

LEARNING_RATE = 1e-3
FARTHEST = 1e100
"""Standardised coordinates are cut off there, so that the square of no finite update overflows."""
FLOOR = 0.1
"""Smallest deviation that a coordinate is divided by, relative to the root mean square of all."""
EQUAL = 1e-9
"""Errors that differ by less, relative to their mean, are equal: what rounding makes of identical updates."""

Weights = tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class Detector:
    """What clean updates look like. All float64 but the coordinates.

    Args:
        sampled_D: bool, the coordinates that are looked at; its length is that of the model.
        index_S: int64, ascending, their positions.
        mean_S: their mean over the clean updates; ``scale_S`` what they are divided by.
        weight1_HS: first layer, with ``bias1_H``; ``weight2_CH``, ``weight3_HC``, ``weight4_SH`` follow.
        trained: 0-dim, 1 after training, 0 before: then nobody is trusted.
    """

    sampled_D: Tensor
    index_S: Tensor
    mean_S: Tensor
    scale_S: Tensor
    weight1_HS: Tensor
    bias1_H: Tensor
    weight2_CH: Tensor
    bias2_C: Tensor
    weight3_HC: Tensor
    bias3_H: Tensor
    weight4_SH: Tensor
    bias4_S: Tensor
    trained: Tensor

    @property
    def layers(self) -> Weights:
        """Weight and bias of the four layers."""
        return (
            (self.weight1_HS, self.bias1_H),
            (self.weight2_CH, self.bias2_C),
            (self.weight3_HC, self.bias3_H),
            (self.weight4_SH, self.bias4_S),
        )


def rebuild(layers: Weights, x_NS: Tensor) -> Tensor:
    """Pass vectors through the network: ReLU after every layer but the last.

    Args:
        layers: weight and bias of each layer.
        x_NS: standardised surrogate vectors.

    Returns:
        what the network makes of them, ``(N, S)``.
    """
    for weight, bias in layers[:-1]:
        x_NS = linear(x_NS, weight, bias).relu()
    return linear(x_NS, *layers[-1])


def _surrogates(matrix_ND: Tensor, valid_N: Tensor, index_S: Tensor) -> Tensor:
    """Take the coordinates as float64, 0 in rows that are not finite."""
    return torch.where(valid_N[:, None], select_columns(matrix_ND, index_S), 0).to(torch.float64)


def reconstruction_errors(detector: Detector, updates: Updates) -> Tensor:
    """Compute the mean squared difference of each standardised surrogate vector and what the network makes of it.

    Args:
        detector: the trained network.
        updates: the round's updates.

    Returns:
        ``(N,)`` float64, finite for every finite update; +inf for the others.
    """
    x_NS = _surrogates(updates.matrix_ND, updates.valid_N, detector.index_S)
    x_NS = ((x_NS - detector.mean_S) / detector.scale_S).clamp(-FARTHEST, FARTHEST)
    errors_N = (x_NS - rebuild(detector.layers, x_NS)).square().mean(1)
    return torch.where(updates.valid_N, errors_N, torch.inf)


def _standardisation(x_MS: Tensor, valid_M: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population deviation over the valid rows, the latter at least a tenth of the typical one, or 1."""
    valid_M1 = valid_M[:, None]
    count = valid_M.sum().clamp_min(1)
    mean_S = x_MS.sum(0) / count
    variance_S = torch.where(valid_M1, x_MS - mean_S, 0).square().sum(0) / count
    # The mean of equal numbers may be off by a rounding: what does not move has no deviation.
    low_S, high_S = torch.where(valid_M1, x_MS, torch.inf).amin(0), torch.where(valid_M1, x_MS, -torch.inf).amax(0)
    variance_S = torch.where(high_S > low_S, variance_S, 0)
    scale_S = torch.maximum(variance_S, variance_S.mean() * FLOOR**2).sqrt()
    return mean_S, torch.where(scale_S > 0, scale_S, 1.0)


def _train(parameters: list[Tensor], x_MS: Tensor, valid_M: Tensor, epochs: int) -> None:
    """Train in place by full-batch Adam on the mean squared error over the valid rows."""
    for parameter in parameters:
        parameter.requires_grad_()
    adam = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    count = valid_M.sum().clamp_min(1)
    layers = tuple(zip(parameters[::2], parameters[1::2], strict=True))
    with torch.enable_grad():
        for _ in range(epochs):
            error_M = (rebuild(layers, x_MS) - x_MS).square().mean(1)
            gradients = torch.autograd.grad(torch.where(valid_M, error_M, 0).sum() / count, parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            adam.step()


def _shapes(parameters: int, surrogate: int, hidden: int, code: int) -> dict[str, tuple[int, ...]]:
    """Give the shape of every tensor of a detector."""
    s = min(surrogate, parameters)
    shapes: tuple[tuple[int, ...], ...] = ((parameters,), (s,), (s,), (s,))
    for rows, columns in ((hidden, s), (code, hidden), (hidden, code), (s, hidden)):
        shapes = (*shapes, (rows, columns), (rows,))
    return dict(zip((item.name for item in fields(Detector)), (*shapes, ()), strict=True))


def autoencoder(*, surrogate: int = 2048, hidden: int = 64, code: int = 16, epochs: int = 100) -> Defense:
    """Drop who looks unlike clean updates: a network trained on these rebuilds it worse than the round's mean.

    Before the first round the server trains a network S -> H -> C -> H -> S on clean updates. In a round, with ``x_i``
    the S surrogate coordinates of update i, standardised as the clean ones were, and ``r`` the network:
    ``e_i = ||x_i - r(x_i)||^2 / S``; client i is kept if ``e_i <= mean(e)``, the papers' dynamic threshold, and the
    kept are averaged by samples. Equal errors all pass.

    The clean updates of a run come from a tenth of the training samples, which no client gets then
    (``rflbat.round.root_data``); ``rflbat.aggregate`` takes them as ``clean=``. Without training nobody is kept.

    Mind the threshold: a mean follows its largest number. It drops somebody in every round, attacked or not, unless
    all errors are equal; and one client that sends something absurd is dropped itself, but lifts the mean above
    everybody else, so that its accomplices pass.

    The papers take surrogate vectors of models and leave open here what is chosen so: updates instead of models, since
    these are what the server gets; a random sample of the coordinates, drawn once; a plain autoencoder (that of the
    2020 paper is variational) with ReLU; its sizes; training by full-batch Adam at a rate of 1e-3, in float64. Each
    coordinate is divided by its deviation over the clean updates, but at least by a tenth of the typical deviation:
    coordinates that hardly move there, as those of a dark corner, must count when a trigger moves them, and a single
    one must not drown the others. A trigger of few coordinates is seen only where the sample hits some of them: a
    small S is a lottery.

    Args:
        surrogate: S, how many coordinates are looked at (2048; all where the model has fewer), at least 1.
        hidden: H, width of the hidden layers (64), at least 1.
        code: C, width of the narrowest layer (16), at least 1.
        epochs: passes over the clean updates in training (100), at least 1.

    Returns:
        the defense; its score is e_i, +inf for a non-finite update.

    Raises:
        UserError: a value below 1.

    Conventions:
        The threshold is the round's mean error, as in the papers: equality keeps.

    Needs:
        Clean updates before the first round: a tenth of the training samples is held out for them.

    Fails:
        Against one absurd update that lifts the mean for its accomplices; on a model that has moved far from where
        the clean updates were made; it drops somebody in every clean round.

    Example:
        >>> import rflbat, numpy
        >>> draws = numpy.random.default_rng(0)
        >>> clean, updates = draws.normal(size=(50, 8)), draws.normal(size=(5, 8))
        >>> updates[2] += 10
        >>> rflbat.aggregate(updates, "autoencoder", clean=clean).kept.tolist()
        [True, True, False, True, True]

    Source: Li, Cheng, Liu, Wang and Chen 2019, "Abnormal client behavior detection in federated learning"; Li, Cheng,
    Wang, Liu and Chen 2020, "Learning to detect malicious clients for robust federated learning".
    """
    for name, value in (("surrogate", surrogate), ("hidden", hidden), ("code", code), ("epochs", epochs)):
        if value < 1:
            raise UserError(f"autoencoder: {name}={value} is out of range; allowed: at least 1")

    def init(clients: int, parameters: int, device: torch.device) -> Detector:
        shapes = _shapes(all_columns(parameters), surrogate, hidden, code)
        kinds = {**dict.fromkeys(shapes, torch.float64), "sampled_D": torch.bool, "index_S": torch.int64}
        return Detector(**{name: torch.zeros(shapes[name], dtype=kinds[name], device=device) for name in shapes})

    def pretrain(clean_MD: Tensor, draw: Draw) -> Detector:
        clean_MD = clean_MD.detach()
        valid_M = finite_rows(clean_MD)
        parameters = all_columns(clean_MD.shape[1])
        shapes = _shapes(parameters, surrogate, hidden, code)
        index_S = draw(parameters).argsort(stable=True)[: shapes["index_S"][0]].sort().values
        sampled_D = torch.zeros(parameters, dtype=torch.bool, device=index_S.device).index_fill(0, index_S, True)
        x_MS = _surrogates(clean_MD, valid_M, index_S)
        mean_S, scale_S = _standardisation(x_MS, valid_M)
        x_MS = ((x_MS - mean_S) / scale_S).clamp(-FARTHEST, FARTHEST)
        learned = []
        for name in list(shapes)[4:-1:2]:
            rows, columns = shapes[name]
            bound = 1 / math.sqrt(columns)
            learned += [bound * (2 * draw(rows, columns) - 1), bound * (2 * draw(rows) - 1)]
        _train(learned, x_MS, valid_M, epochs)
        learned = [each.detach() for each in learned]
        trained = valid_M.any().to(torch.float64)
        tensors = (sampled_D, index_S, mean_S, scale_S, *learned, trained)
        return Detector(**dict(zip(shapes, tensors, strict=True)))

    def apply(updates: Updates, state: Detector, draw: Draw) -> Decision:
        errors_N = reconstruction_errors(state, updates)
        total = torch.where(updates.valid_N, errors_N, 0).sum()
        usual_N = updates.valid_N.sum() * errors_N <= total * (1 + EQUAL)
        trusted_N = usual_N & (state.trained > 0)
        share_N = torch.where(trusted_N, updates.sizes_N, 0.0)
        return decide(updates, share_N, errors_N, stage_N=torch.where(trusted_N, 0, 2), state=state)

    return Defense("autoencoder", ("kept", "nonfinite", "autoencoder"), apply, init, pretrain=pretrain)
