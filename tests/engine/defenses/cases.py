"""One case per defense: its oracle, the parameters of the comparison, and updates that suit it.

Axes: N clients of the round, D parameters.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rflbat.aggregation import aggregate
from rflbat.defenses.base import Decision, state_tensors
from rflbat.defenses.registry import make_defense
from rflbat.testing.subject import supplied
from tests.engine.defenses import definitions
from tests.oracles import defenses as oracles
from tests.oracles import related
from tests.oracles.defenses import Answer

Array = NDArray[np.float64]
PARAMETERS = 101


def as_float32(updates_ND: Array) -> Array:
    """Round to numbers that float32 holds exactly, so that one oracle answer serves both types."""
    return updates_ND.astype(np.float32).astype(np.float64)


def scattered(clients: int, seed: int) -> Array:
    """Noise; a third of the clients also pulls one way, so that neither distances nor cosines are all alike."""
    rng = np.random.default_rng(seed)
    updates_ND = rng.standard_normal((clients, PARAMETERS))
    updates_ND[: clients // 3] += 0.6 * rng.standard_normal(PARAMETERS)
    return as_float32(rng.permutation(updates_ND))


def clustered(clients: int, seed: int) -> Array:
    """Honest clients that hardly agree, two fifths of malicious ones that do, far away.

    From 12 clients on there is one more kind: for even seeds an outlier that filter 1 must drop, for odd ones a stray
    on the honest side that filter 2 must drop.
    """
    rng = np.random.default_rng(seed)
    updates_ND = rng.standard_normal((clients, PARAMETERS)) + 0.4 * rng.standard_normal(PARAMETERS)
    away_3D = np.linalg.qr(rng.standard_normal((PARAMETERS, 3)))[0].T
    malicious = clients * 2 // 5
    updates_ND[:malicious] = 150 * away_3D[0] + 0.5 * updates_ND[:malicious]
    if clients >= 12:
        updates_ND[-1] += 40 * away_3D[1] if seed % 2 else 50_000 * away_3D[2]
    return as_float32(rng.permutation(updates_ND))


def conspiring(clients: int, seed: int) -> Array:
    """Noise; a quarter of the clients, at least one from 3 on, also moves the same 7 coordinates far."""
    rng = np.random.default_rng(seed)
    updates_ND = rng.standard_normal((clients, PARAMETERS))
    malicious = 0 if clients < 3 else max(1, clients // 4)
    updates_ND[:malicious, rng.choice(PARAMETERS, 7, replace=False)] += 12
    return as_float32(rng.permutation(updates_ND))


def honest(updates: int, seed: int) -> Array:
    """Only noise: the background of ``straying`` clients."""
    return as_float32(np.random.default_rng(seed).standard_normal((updates, PARAMETERS)))


def straying(clients: int, seed: int) -> Array:
    """Noise; a fifth of the clients, at least one from 3 on, moves a tenth of the coordinates far, each its own."""
    rng = np.random.default_rng(seed)
    updates_ND = rng.standard_normal((clients, PARAMETERS))
    for row_D in updates_ND[: 0 if clients < 3 else max(1, clients // 5)]:
        row_D[rng.choice(PARAMETERS, 10, replace=False)] += 8
    return as_float32(rng.permutation(updates_ND))


def narrow(clients: int, seed: int) -> Array:
    """Noise; a quarter of the clients, at least one from 3 on, moves one class of the output layer far more."""
    rng = np.random.default_rng(seed)
    updates_ND = rng.standard_normal((clients, PARAMETERS))
    shapes = supplied(make_defense("deepsight", {}), PARAMETERS)["layers"]
    (classes, inputs), hidden = shapes["weight"], shapes["hidden"][0]
    for row_D in updates_ND[: 0 if clients < 3 else max(1, clients // 4)]:
        row_D[hidden:] *= 0.01
        row_D[hidden : hidden + inputs] += 3 + 0.1 * rng.standard_normal(inputs)
        row_D[-classes] += 3
    return as_float32(rng.permutation(updates_ND))


def layer(weight: Array, bias: Array, x: Array) -> Array:
    """One dense layer of one vector."""
    return np.array([math.fsum(row * x) for row in weight]) + bias


def errors_of(detector: Any, updates_ND: Any) -> Array:
    """Each client's reconstruction error, one vector at a time in numpy; NaN where the update is not finite."""
    part = {name: value.numpy() for name, value in state_tensors(detector).items()}
    errors = []
    for row_D in np.asarray(updates_ND, dtype=np.float64):
        if not np.isfinite(row_D).all():
            errors.append(math.nan)
            continue
        x = (row_D[part["index_S"]] - part["mean_S"]) / part["scale_S"]
        hidden = np.maximum(layer(part["weight1_HS"], part["bias1_H"], x), 0)
        code = np.maximum(layer(part["weight2_CH"], part["bias2_C"], hidden), 0)
        hidden = np.maximum(layer(part["weight3_HC"], part["bias3_H"], code), 0)
        rebuilt = layer(part["weight4_SH"], part["bias4_S"], hidden)
        errors.append(math.fsum((x - rebuilt) ** 2) / len(x))
    return np.array(errors)


def autoencoder(updates: Any, sizes: Sequence[float] | None) -> Answer:
    """The paper's selection, given the errors of the network that the case has trained."""
    return related.autoencoder_selection(errors_of(trained("autoencoder"), updates), updates, sizes)


@dataclass(frozen=True)
class Case:
    """Test case of one defense.

    Args:
        oracle: (updates, sizes or None) -> answer, with `parameters` as the oracle calls them.
        make: (clients, seed) -> updates (N, D).
        parameters: parameters of the defense.
        uses_sizes: whether the samples of a client count.
        identical_pass: identical updates give that update; False: no client is kept.
        scores: name of the defense's scores in the oracle's detail.
        stages: names of the stages at which the cases above must reject a client.
        clean: for a defense that learns before the first round: its clean updates.
        translation: a vector added to every update is added to the result.
        untied: number of clients from which their order does not matter; below, it decides the method's ties.
        rescales: updates are scaled by a factor of the defense's own, so identical updates give a multiple.
    """

    oracle: Callable[[Any, Sequence[float] | None], Answer]
    make: Callable[[int, int], Array] = scattered
    parameters: Mapping[str, Any] = field(default_factory=dict)
    uses_sizes: bool = False
    identical_pass: bool = True
    scores: str | None = None
    stages: frozenset[str] = frozenset()
    clean: Callable[[], Array] | None = None
    untied: int = 1
    translation: bool = True
    rescales: bool = False


CASES = {
    "fedavg": Case(oracles.fedavg, uses_sizes=True),
    "rflbat": Case(
        oracles.rflbat,
        clustered,
        translation=False,
        uses_sizes=True,
        scores="similarities",
        stages=frozenset({"filter1", "cluster", "filter2"}),
    ),
    # Clients that agree perfectly are sybils: identical updates all have weight 0.
    "foolsgold": Case(oracles.foolsgold, translation=False, identical_pass=False, scores="alphas"),
    "krum": Case(oracles.krum, scores="scores", stages=frozenset({"distant"})),
    "multikrum": Case(oracles.multikrum, scores="scores", stages=frozenset({"distant"})),
    # Both iterate until nothing moves, since the tolerance bounds the last step and not the error.
    "geomed": Case(partial(oracles.geomed, tolerance=1e-13), parameters={"tolerance": 0.0, "passes": 100}),
    "rfa": Case(oracles.rfa, uses_sizes=True),
    "median": Case(related.median),
    "trimmed_mean": Case(related.trimmed_mean),
    # f = 3 leaves at least two neighbours to the last selection; with one, the two nearest clients score the same.
    "bulyan": Case(related.bulyan, scores="scores", stages=frozenset({"bulyan"}), untied=15),
    "norm_clipping": Case(related.norm_clipping, translation=False, uses_sizes=True, scores="scores"),
    "auror": Case(related.auror, conspiring, uses_sizes=True, scores="scores", stages=frozenset({"auror"})),
    # Its state is reused: the battery continues from one training.
    "autoencoder": Case(
        autoencoder,
        straying,
        translation=False,
        uses_sizes=True,
        scores="scores",
        stages=frozenset({"autoencoder"}),
        clean=partial(honest, 60, 0),
    ),
    "fltrust": Case(
        definitions.fltrust, translation=False, scores="scores", stages=frozenset({"untrusted"}), rescales=True
    ),
    "flame": Case(
        definitions.flame, translation=False, parameters={"noise": 0.0}, scores="scores", stages=frozenset({"minority"})
    ),
    "deepsight": Case(
        definitions.deepsight,
        narrow,
        translation=False,
        parameters={"samples": 40},
        scores="scores",
        stages=frozenset({"suspicious"}),
    ),
}


@cache
def trained(name: str) -> Any:
    """The state with which the case begins; None for a defense that learns nothing before the first round."""
    case = CASES[name]
    if case.clean is None:
        return None
    clean_MD = case.clean()
    return aggregate(clean_MD, name, clean=clean_MD, **case.parameters).state


def decide(name: str, updates_ND: Any, dtype: torch.dtype = torch.float64, **more: Any) -> Decision:
    """Aggregate under a defense with its case's parameters; `more` goes to `aggregate`."""
    defense = make_defense(name, CASES[name].parameters)
    more = {**supplied(defense, np.shape(updates_ND)[1]), "state": trained(name), **more}
    return aggregate(torch.as_tensor(updates_ND).to(dtype), name, **CASES[name].parameters, **more)


def agree(decision: Decision, answer: Answer, tolerance: float = 1e-9, scale: float = 1e-300) -> None:
    """Masks are the oracle's exactly; weights up to a tolerance; updates too, relative to the largest element.

    `scale` stands in where the answer's elements are smaller, for answers that are differences of larger numbers.
    """
    np.testing.assert_array_equal(decision.kept.numpy(), answer.kept)
    np.testing.assert_allclose(decision.weights.numpy(), answer.weights, rtol=tolerance, atol=tolerance)
    scale = max(np.abs(answer.update).max(), scale)
    np.testing.assert_allclose(decision.update.numpy(), answer.update, rtol=0, atol=tolerance * scale)
