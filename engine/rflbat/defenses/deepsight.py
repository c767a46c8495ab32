"""DeepSight: clusters of clients by their output layers and by their models' answers to noise.

Axes: N clients of the round, P classes, H inputs of the output layer, S seeds, B noise inputs, K clusterings.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from rflbat.defenses.angles import BOUNDS, clipped_mean, cosine_distances
from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.errors import UserError, nearest
from rflbat.parameters import Layout
from rflbat.randomness import Draw, uniforms_at
from rflbat_kernels import distances, hdbscan, masked_median

PIECE = 1000
"""Noise inputs of one forward pass."""
MOST = 300.0
"""Largest logarithm of a ratio of probabilities, so that the square of no sum overflows."""
FLOOR = 0.01
OUTLIERS = ("together", "alone")


def output_layer(layout: Layout) -> tuple[str, str]:
    """Find the output layer: the last weight matrix that is followed by a bias of one of its sizes.

    Args:
        layout: names and shapes of the parameters.

    Returns:
        names of the weight and of the bias.

    Raises:
        UserError: there is none.

    Example:
        >>> output_layer(Layout({"hidden.weight": (5, 9), "hidden.bias": (5,), "w": (3, 5), "b": (3,)}))
        ('w', 'b')
    """
    for weight, bias in reversed(list(pairwise(layout.shapes))):
        matrix, vector = layout.shapes[weight], layout.shapes[bias]
        if len(matrix) == 2 and len(vector) == 1 and vector[0] in matrix:
            return weight, bias
    raise UserError(
        f"deepsight needs an output layer, a weight matrix followed by its bias; the model has {dict(layout.shapes)}"
    )


def layer_updates(updates: Updates) -> tuple[Tensor, Tensor]:
    """Return the updates of the output layer, 0 for rows that are not valid.

    Args:
        updates: the round's updates; needs "layers".

    Returns:
        absolute weights summed over the layer's inputs ``(N, P)``, and biases ``(N, P)``, float64.
    """
    layout = updates.layout
    weight, bias = output_layer(layout)
    classes, parts = layout.shapes[bias][0], []
    for name in (weight, bias):
        first, shape = layout.offset(name), layout.shapes[name]
        flat_NQ = updates.matrix_ND[:, first : first + torch.Size(shape).numel()]
        flat_NQ = torch.where(updates.valid_N[:, None], flat_NQ, 0).to(torch.float64)
        parts.append(flat_NQ.view(-1, *shape))
    weight_NPH, bias_NP = parts
    if weight_NPH.shape[1] != classes:  # stored as (inputs, classes)
        weight_NPH = weight_NPH.mT
    return weight_NPH.abs().sum(2), bias_NP


def update_energies(weight_NP: Tensor, bias_NP: Tensor) -> Tensor:
    """Compute the normalised update energies (NEUP): ``E_k^2 / sum E^2`` with ``E_k = |b_k| + sum_h |W_kh|``.

    Args:
        weight_NP: sums of the absolute weight updates of each class.
        bias_NP: bias updates.

    Returns:
        ``(N, P)`` float64; each row sums to 1, or is 0 for a zero update.
    """
    energy_NP = weight_NP + bias_NP.abs()
    largest_N1 = energy_NP.amax(1, keepdim=True)
    square_NP = (energy_NP / torch.where(largest_N1 > 0, largest_N1, 1.0)).square()
    total_N1 = square_NP.sum(1, keepdim=True)
    return square_NP / torch.where(total_N1 > 0, total_N1, 1.0)


def exceedings(energy_NP: Tensor) -> Tensor:
    """Count the classes whose NEUP exceeds ``max(0.01, 1 / P)`` times the largest of the client.

    Args:
        energy_NP: NEUPs.

    Returns:
        ``(N,)`` float64.
    """
    threshold_N1 = max(FLOOR, 1 / energy_NP.shape[1]) * energy_NP.amax(1, keepdim=True)
    return (energy_NP > threshold_N1).sum(1).to(torch.float64)


def division_differences(updates: Updates, draw: Draw, samples: int, seeds: int) -> Tensor:
    """Compute the division differences (DDif): the mean over noise inputs of ``p_i,k / p_k``.

    ``p_i`` is the softmax of client i's local model, p that of the global model. Inputs are uniform in [0, 1).

    Args:
        updates: the round's updates; needs "outputs".
        draw: source of the keys of the noise.
        samples: inputs per seed.
        seeds: S.

    Returns:
        ``(S, N, P)`` float64; finite, and 0 for rows that are not valid.
    """
    shape = updates.sample_shape
    width, found = torch.Size(shape).numel(), []
    for key in draw(seeds).unbind():
        total_NP: Tensor | float = 0.0
        for first in range(0, samples, PIECE):
            count = min(PIECE, samples - first)
            x_B = uniforms_at(key, first * width, count * width).to(updates.dtype).view(count, *shape)
            local_NBP = updates.outputs(x_B).to(torch.float64).log_softmax(-1)
            global_BP = updates.global_outputs(x_B).to(torch.float64).log_softmax(-1)
            ratio_NBP = (local_NBP - global_BP).nan_to_num(MOST, MOST, -MOST).clamp(-MOST, MOST).exp()
            total_NP = total_NP + ratio_NBP.sum(1)
        found.append(torch.where(updates.valid_N[:, None], total_NP / samples, 0.0))
    return torch.stack(found)


def feature_distances(energy_NP: Tensor, bias_NP: Tensor, answer_SNP: Tensor) -> Tensor:
    """Compute the distances of the first clusterings.

    Args:
        energy_NP: NEUPs.
        bias_NP: bias updates of the output layer.
        answer_SNP: DDifs of each seed.

    Returns:
        ``(2 + S, N, N)``: cosine distances of the biases, Euclidean distances of the NEUPs and of each seed's DDifs.
    """
    square_N = bias_NP.square().sum(1)
    angle_NN = cosine_distances(distances(bias_NP).square(), square_N, torch.zeros_like(square_N[0]))
    return torch.cat([angle_NN[None], distances(energy_NP)[None], distances(answer_SNP)])


def _apart(label_KN: Tensor, outliers: str) -> Tensor:
    """Return 1 for pairs of clients in different clusters, else 0, ``(K, N, N)``."""
    apart_KNN = label_KN[:, :, None] != label_KN[:, None, :]
    if outliers == "alone":
        noise_KN = label_KN < 0
        apart_KNN = apart_KNN | (noise_KN[:, :, None] & noise_KN[:, None, :])
        apart_KNN = apart_KNN & ~torch.eye(label_KN.shape[1], dtype=torch.bool, device=label_KN.device)
    return apart_KNN.to(torch.float64)


def suspicious_shares(label_N: Tensor, suspicious_N: Tensor) -> Tensor:
    """Compute the share of suspicious clients in each client's cluster; a noise point is a cluster of its own.

    Args:
        label_N: numbers of the clusters, -1 for noise.
        suspicious_N: bool.

    Returns:
        ``(N,)`` float64.
    """
    own_NN = torch.eye(len(label_N), dtype=torch.bool, device=label_N.device)
    same_NN = own_NN | ((label_N[:, None] == label_N[None, :]) & (label_N >= 0))
    return (same_NN & suspicious_N).sum(1) / same_NN.sum(1).to(torch.float64)


def _check(counts: Mapping[str, tuple[int, int]], tau: float, names: Mapping[str, tuple[str, tuple[str, ...]]]) -> None:
    """Check the parameters: numbers with the least that is allowed, and names with the allowed ones."""
    for key, (value, least) in counts.items():
        if value < least:
            raise UserError(f"deepsight: {key}={value} is out of range; allowed: at least {least}")
    if not 0 < tau <= 1:
        raise UserError(f"deepsight: tau={tau} is out of range; allowed: above 0, at most 1")
    for key, (text, allowed) in names.items():
        if text not in allowed:
            raise UserError(f"deepsight: {key}={text!r}{nearest(text, allowed)}; allowed: {', '.join(allowed)}")


def deepsight(
    *,
    samples: int = 20_000,
    seeds: int = 3,
    tau: float = 1 / 3,
    min_cluster_size: int = 2,
    min_samples: int = 1,
    outliers: str = "together",
    bound: str = "all",
) -> Defense:
    """Drop clusters in which many clients trained on few classes, by the output layer and by answers to noise.

    1. NEUP: the share of each class in the squared energy of the output layer's update. ``TE_i`` counts the classes
       above ``max(0.01, 1 / P)`` times client i's largest. A client is suspicious if ``TE_i <= median(TE) / 2``.
    2. DDif: mean ratio of the softmax outputs of the local and the global model on ``samples`` noise inputs, ``seeds``
       times.
    3. HDBSCAN on the cosine distances of the bias updates, on the NEUPs and on the DDifs of each seed. Each clustering
       gives distance 1 to two clients in different clusters, else 0. The matrices of the DDifs are averaged, then the
       three kinds; a last HDBSCAN clusters the result.
    4. A cluster is kept if its share of suspicious clients is below ``tau``. Noise points are clusters of their own.
    5. The kept updates are averaged after clipping to the median norm.

    Args:
        samples: noise inputs per seed, at least 1. Each costs N + 1 forward passes.
        seeds: number of noise sets, at least 1.
        tau: share of suspicious clients from which a cluster is dropped, above 0, at most 1.
        min_cluster_size: smallest cluster of HDBSCAN, at least 2.
        min_samples: rank of the neighbour that sets the density of a point in HDBSCAN, at least 1; the point itself
            counts as the first, as in scikit-learn.
        outliers: noise points of the first clusterings are at distance 0 from each other (``together``, as in all
            published copies, which compare labels) or at distance 1 (``alone``).
        bound: norms whose median clips: those of ``all`` clients (the paper) or of the ``kept``.

    Returns:
        the defense. Its score is the share of suspicious clients in the client's cluster. The trace holds ``cluster``
        (-1 for noise), ``exceedings`` TE and ``suspicious``.

    Raises:
        UserError: a value is out of range.

    Conventions:
        Ratios of probabilities, not of logits; Euclidean distances of NEUPs and DDifs. Published copies differ in the
        smallest cluster of HDBSCAN (most take the default 5 of the package ``hdbscan``). The median of TE is over all
        valid clients, and equality is suspicious. Plain mean; numbers of samples do not count. Noise inputs are a hash
        of their position and of a key that is drawn for each seed and round. Logarithms of ratios are clamped to 300.

    Needs:
        The update of the output layer, a weight matrix followed by a bias, and forward passes of every local model on
        numeric inputs: ``(N + 1) * samples * seeds`` of them in a round. HDBSCAN runs on the host, so the round waits
        for the device twice.

    Fails:
        Against attackers that poison few samples of many classes: their updates look like those of honest clients. With
        strongly non-IID data, where honest clients train on few classes too. On texts, since token ids are no noise.

    Example:
        >>> import rflbat, numpy
        >>> draws = numpy.random.default_rng(0)
        >>> updates = draws.normal(size=(8, 12))
        >>> updates[:3, 3:8], updates[:3, 10:] = 0, 0
        >>> known = {"params": draws.normal(size=12), "layers": {"weight": (4, 2), "bias": (4,)}}
        >>> logits = lambda named, x: x @ named["weight"].T + named["bias"]
        >>> decision = rflbat.aggregate(updates, "deepsight", samples=50, outputs=logits, sample_shape=(2,), **known)
        >>> int(decision.trace["exceedings"].max())
        4

    Source: Rieger, Nguyen, Miettinen and Sadeghi 2022, "DeepSight: Mitigating backdoor attacks in federated learning
    through deep model inspection", NDSS, algorithms 1 to 3.
    """
    _check(
        {
            "samples": (samples, 1),
            "seeds": (seeds, 1),
            "min_cluster_size": (min_cluster_size, 2),
            "min_samples": (min_samples, 1),
        },
        tau,
        {"outliers": (outliers, OUTLIERS), "bound": (bound, BOUNDS)},
    )

    def clusters(distances_KNN: Tensor, valid_N: Tensor) -> Tensor:
        return hdbscan(distances_KNN, valid_N, min_cluster_size=min_cluster_size, min_samples=min_samples)

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        valid_N = updates.valid_N
        weight_NP, bias_NP = layer_updates(updates)
        energy_NP = update_energies(weight_NP, bias_NP)
        count_N = exceedings(energy_NP)
        suspicious_N = valid_N & (count_N <= masked_median(count_N, valid_N) / 2)

        answer_SNP = division_differences(updates, draw, samples, seeds)
        apart_KNN = _apart(clusters(feature_distances(energy_NP, bias_NP, answer_SNP), valid_N), outliers)
        merged_NN = (apart_KNN[0] + apart_KNN[1] + apart_KNN[2:].mean(0)) / 3
        label_N = clusters(merged_NN[None], valid_N)[0]

        share_N = suspicious_shares(label_N, suspicious_N)
        kept_N = valid_N & (share_N < tau)
        update_D, _ = clipped_mean(updates, kept_N, bound)
        return decide(
            updates,
            kept_N.to(torch.float64),
            share_N,
            update_D=update_D,
            stage_N=torch.where(kept_N, 0, 2),
            cluster=label_N,
            exceedings=count_N,
            suspicious=suspicious_N,
        )

    return Defense(
        "deepsight",
        ("kept", "nonfinite", "suspicious"),
        apply,
        num_uniforms=lambda clients, parameters: seeds,
        needs=frozenset({"layers", "outputs"}),
        waits=2,
    )
