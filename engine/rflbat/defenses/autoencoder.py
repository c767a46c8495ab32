"""Autoencoder: drop clients whose update a network trained on clean updates reconstructs badly.

Axes: N clients of the round, M clean updates, D parameters, S surrogate coordinates, H hidden units, C code units.
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
"""Standardised coordinates are clamped to this magnitude, so that the square of no finite update overflows."""
FLOOR = 0.1
"""Smallest deviation that a coordinate is divided by, relative to the root mean square deviation of all coordinates."""
EQUAL = 1e-9
"""Relative difference (to the mean error) below which errors count as equal. It covers the rounding error of identical
updates."""

Weights = tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class Detector:
    """Autoencoder of clean updates. All tensors are float64 except ``sampled_D`` and ``index_S``.

    Args:
        sampled_D: bool, mask of the sampled coordinates; as long as the model has parameters.
        index_S: int64, ascending, positions of the sampled coordinates.
        mean_S: their mean over the clean updates.
        scale_S: divisor of the standardised coordinates.
        weight1_HS: weight of the first layer; its bias is ``bias1_H``. The other layers follow as ``weight2_CH``,
            ``weight3_HC`` and ``weight4_SH``.
        trained: 0-dim, 1 after training, 0 before. An untrained detector trusts no client.
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
        """Weight and bias of each of the four layers."""
        return (
            (self.weight1_HS, self.bias1_H),
            (self.weight2_CH, self.bias2_C),
            (self.weight3_HC, self.bias3_H),
            (self.weight4_SH, self.bias4_S),
        )


def rebuild(layers: Weights, x_NS: Tensor) -> Tensor:
    """Reconstruct vectors by the network, with a ReLU after every layer but the last.

    Args:
        layers: weight and bias of each layer.
        x_NS: standardised surrogate vectors.

    Returns:
        reconstructed vectors ``(N, S)``.
    """
    for weight, bias in layers[:-1]:
        x_NS = linear(x_NS, weight, bias).relu()
    return linear(x_NS, *layers[-1])


def _surrogates(matrix_ND: Tensor, valid_N: Tensor, index_S: Tensor) -> Tensor:
    """Select the surrogate coordinates as float64; non-finite rows become 0."""
    return torch.where(valid_N[:, None], select_columns(matrix_ND, index_S), 0).to(torch.float64)


def reconstruction_errors(detector: Detector, updates: Updates) -> Tensor:
    """Compute the mean squared reconstruction error of each standardised surrogate vector.

    Args:
        detector: the trained network.
        updates: the round's updates.

    Returns:
        ``(N,)`` float64, finite for every finite update, +inf for the others.
    """
    x_NS = _surrogates(updates.matrix_ND, updates.valid_N, detector.index_S)
    x_NS = ((x_NS - detector.mean_S) / detector.scale_S).clamp(-FARTHEST, FARTHEST)
    errors_N = (x_NS - rebuild(detector.layers, x_NS)).square().mean(1)
    return torch.where(updates.valid_N, errors_N, torch.inf)


def _standardisation(x_MS: Tensor, valid_M: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and divisor of each coordinate over the valid rows.

    The divisor is the population deviation, but at least a tenth of the typical deviation; 1 if that is 0.
    """
    valid_M1 = valid_M[:, None]
    count = valid_M.sum().clamp_min(1)
    mean_S = x_MS.sum(0) / count
    variance_S = torch.where(valid_M1, x_MS - mean_S, 0).square().sum(0) / count
    # Rounding of the mean can give a constant coordinate a tiny variance, so set its variance to exactly 0.
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
    """Return the shape of every tensor of a ``Detector``."""
    s = min(surrogate, parameters)
    shapes: tuple[tuple[int, ...], ...] = ((parameters,), (s,), (s,), (s,))
    for rows, columns in ((hidden, s), (code, hidden), (hidden, code), (s, hidden)):
        shapes = (*shapes, (rows, columns), (rows,))
    return dict(zip((item.name for item in fields(Detector)), (*shapes, ()), strict=True))


def autoencoder(*, surrogate: int = 2048, hidden: int = 64, code: int = 16, epochs: int = 100) -> Defense:
    """Drop updates that an autoencoder of clean updates reconstructs worse than the round's mean error.

    Before the first round the server trains a network S -> H -> C -> H -> S on clean updates. In a round, let ``x_i``
    be the S surrogate coordinates of update i, standardised like the clean ones, and ``r`` the network. Then ``e_i =
    ||x_i - r(x_i)||^2 / S``. Client i is kept if ``e_i <= mean(e)``, the papers' dynamic threshold, and the kept
    updates are averaged by number of samples. If all errors are equal, all clients are kept.

    The clean updates of a run are trained on the root data: a tenth of the training samples, which is withheld from the
    clients (``rflbat.round.root_data``). ``rflbat.aggregate`` takes clean updates as ``clean=``. An untrained detector
    keeps no client.

    Caution: the threshold is a mean, which follows the largest error. Unless all errors are equal, it drops at least
    one client in every round, attacked or not. A client that sends an absurdly large update is dropped itself, but
    raises the mean above all other errors, so that its accomplices pass.

    The papers feed surrogate vectors of models to the network and leave several choices open. This implementation takes
    updates instead of models, since the server receives updates; a random sample of the coordinates, drawn once; a
    plain autoencoder with ReLU (the 2020 paper uses a variational one) of the sizes below; and training by full-batch
    Adam with learning rate 1e-3 in float64. Each coordinate is divided by its deviation over the clean updates, but at
    least by a tenth of the typical deviation: coordinates that hardly move in clean updates, such as those of a dark
    image corner, must count when a trigger moves them, yet a single one must not outweigh all others. A trigger that
    moves few coordinates is detected only if the sample contains some of them, so with a small S detection depends on
    chance.

    Args:
        surrogate: S, number of sampled coordinates, at least 1 (2048; all coordinates if the model has fewer).
        hidden: H, width of the hidden layers, at least 1 (64).
        code: C, width of the narrowest layer, at least 1 (16).
        epochs: passes over the clean updates in training, at least 1 (100).

    Returns:
        the defense. Its score is ``e_i``, +inf for a non-finite update.

    Raises:
        UserError: a value is below 1.

    Conventions:
        The threshold is the round's mean error, as in the papers; an error equal to the threshold is kept.

    Needs:
        Clean updates before the first round: a tenth of the training samples is set aside as root data for them.

    Fails:
        Against one absurdly large update that raises the mean for its accomplices, and on a model that has moved far
        from the model on which the clean updates were trained. It drops at least one client in every clean round.

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
