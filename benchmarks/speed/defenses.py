"""W4: one step of every defense on given updates: rflbat, numpy and scikit-learn, and the peers that have the defense.

Axes: N clients of the round, D parameters.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.cases import Case, Prepared, Question
from benchmarks.speed.formulas import FORMULAS, Array, Matrix, Settings
from benchmarks.speed.measure import Timing, agreement
from benchmarks.speed.peers import contract
from benchmarks.speed.peers.environments import PEERS
from benchmarks.speed.workloads import make_updates
from rflbat import aggregate
from rflbat.defenses.base import state_tensors

OURS, NUMPY = "rflbat", "numpy"
SHAPES = ((100, 7_850), (100, 220_000), (1_600, 220_000), (100, 5_780_000))
TOLERANCE = {OURS: 1e-5, NUMPY: 1e-3}
"""Relative tolerances; numpy's float32 and the few passes of a peer's geometric median get a larger one."""
LARGE = 10**8
"""Matrix size from which one repetition of a slow contender takes minutes."""
WITH_F = frozenset({"krum", "multikrum", "trimmed_mean", "bulyan"})
WITH_PEERS = ("geomed", 1_600)
"""The large case that peers also run, because it has a target; each of their repetitions takes half a minute."""
CLEAN = 50
"""Number of updates that the autoencoder learns from."""


def arguments(defense: str, clients: int, parameters: int) -> dict[str, float]:
    """Return the parameters of a defense: a fifth is malicious, and the bound clips every update a little.

    Example:
        >>> arguments("krum", 100, 7850), arguments("median", 100, 7850)
        ({'f': 20}, {})
    """
    if defense in WITH_F:
        return {"f": clients // 5}
    return {"bound": 0.01 * parameters**0.5} if defense == "norm_clipping" else {}


def operations(defense: str, clients: int, parameters: int) -> float:
    """Count the fewest operations of a defense in products of the matrix; a multiplication and its addition count 2.

    A defense on all pairs of clients needs the upper half of the Gram matrix; a geometric median at least one pass of
    distances, RFA four. Each ends with a weighted sum. A defense that sorts columns multiplies nothing.

    Example:
        >>> [f"{operations(name, 100, 220_000) / 1e9:.2f}" for name in ("fedavg", "krum", "rfa", "median")]
        ['0.04', '2.27', '0.22', '0.00']
    """
    once = 2.0 * clients * parameters
    pairs = (clients + 1) * clients * parameters
    needed = {
        **dict.fromkeys(("rflbat", "foolsgold", "krum", "multikrum"), pairs + once),
        **{"bulyan": pairs, "geomed": min(2 * once, pairs + once), "rfa": min(5 * once, pairs + once)},
        **{"norm_clipping": 2 * once, "median": 0.0, "trimmed_mean": 0.0},
    }
    return needed.get(defense, once)


def least_bytes(defense: str, clients: int, parameters: int) -> float:
    """Count the fewest bytes: the matrix is read once for the result, and once before if the weights depend on it.

    FoolsGold also reads and writes its history.

    Example:
        >>> [f"{least_bytes(name, 100, 220_000) / 1e6:.0f} MB" for name in ("fedavg", "krum", "foolsgold")]
        ['89 MB', '177 MB', '353 MB']
    """
    reads = 1 if defense in ("fedavg", "median", "trimmed_mean", "autoencoder") else 2
    if defense == "foolsgold":
        reads += 2
    return 4.0 * parameters * (reads * clients + 1)


def learned(clients: int, parameters: int) -> tuple[object, dict[str, Array]]:
    """Train the autoencoder on clean updates; return its state and the tensors of the state."""
    clean = make_updates(CLEAN + CLEAN // 4, parameters, seed=1)[CLEAN // 4 :]
    state = aggregate(make_updates(2, parameters), "autoencoder", clean=clean).state
    return state, {name: tensor.numpy() for name, tensor in state_tensors(state).items()}


def settings_of(defense: str, clients: int, parameters: int) -> Settings:
    """Return the settings of a formula."""
    given = arguments(defense, clients, parameters)
    detector = learned(clients, parameters)[1] if defense == "autoencoder" else {}
    return Settings(int(given.get("f", 0)), given.get("bound", 1.0), detector)


def expect(defense: str, clients: int, parameters: int, folder: Path) -> None:
    """Store the formula's result in float64; for the median also the lower of the two middle values."""
    updates_ND = make_updates(clients, parameters)
    settings = settings_of(defense, clients, parameters)
    np.save(folder / "update.npy", FORMULAS[defense](Matrix(updates_ND, exact=True), settings))
    if defense == "median":
        lower = Matrix(updates_ND, exact=True).by_column(lambda block: np.sort(block, axis=0)[(clients - 1) // 2])
        np.save(folder / "lower.npy", lower)


def verify(found_D: Array, folder: Path, tolerance: float, file: str = "update.npy") -> str:
    """Compare an aggregated update with the expected one."""
    return agreement([found_D], [np.load(folder / file)], tolerance, "the formula in float64")


def prepare(defense: str, clients: int, parameters: int, contender: str) -> Prepared:
    """Prepare rflbat or numpy."""
    updates_ND = make_updates(clients, parameters)
    first: list[Array] = []
    if contender == NUMPY:
        settings = settings_of(defense, clients, parameters)

        def play() -> None:
            found_D = FORMULAS[defense](Matrix(updates_ND, exact=False), settings)
            if not first:
                first.append(found_D)

        return Prepared(play, lambda folder: verify(first[0], folder, TOLERANCE[NUMPY]), f"numpy {np.__version__}")

    matrix_ND, given = torch.from_numpy(updates_ND), arguments(defense, clients, parameters)
    memory = learned(clients, parameters)[0] if defense == "autoencoder" else None

    def defend() -> None:
        nonlocal memory
        decision = aggregate(matrix_ND, defense, state=memory, **given)
        memory = decision.state
        if not first:
            first.append(decision.update.numpy())

    return Prepared(defend, lambda folder: verify(first[0], folder, TOLERANCE[OURS]), f"torch {torch.__version__}")


def ask(defense: str, clients: int, parameters: int, contender: str, question: Question) -> Timing:
    """Measure a defense peer and check its result."""
    peer, _, arrays = contender.partition(" ")
    out = question.folder / f"{contender}.npy"
    given = [word for name, value in arguments(defense, clients, parameters).items() for word in (f"--{name}", value)]
    size = ("--clients", clients, "--parameters", parameters, "--rounds", question.rounds)
    how = ("--arrays", arrays or "torch", "--out", out)
    report = contract.call(contract.Defended, peer, defense, *size, *given, *how, threads=question.threads)
    # ByzPy uses torch's median: the lower middle value of an even number of values.
    file = "lower.npy" if (defense, peer) == ("median", "byzpy") else "update.npy"
    checked = verify(np.load(out), question.folder, TOLERANCE[NUMPY], file)
    return Timing(contender, report.version, 1, report.seconds, report.peak_bytes, checked)


def peers_of(defense: str) -> tuple[str, ...]:
    """Return the peers that have a defense; ByzFL runs on both torch tensors and numpy arrays."""
    names = [peer for peer, row in PEERS.items() if defense in row.runs]
    return tuple(name for peer in names for name in ((peer, f"{peer} numpy") if peer == "byzfl" else (peer,)))


def defense_case(group: str, defense: str, clients: int, parameters: int, peers: tuple[str, ...] = ()) -> Case:
    """Build the case of one defense on one shape.

    Args:
        group: group of the case.
        defense: name in rflbat's registry.
        clients: N.
        parameters: D.
        peers: contenders besides rflbat and numpy.
    """
    shape = (clients, parameters)
    return Case(
        f"{group}-{defense}-{clients}x{parameters}",
        f"{defense} on {clients:,} x {parameters:,}",
        *(*shape, operations(defense, *shape), least_bytes(defense, *shape), (OURS, NUMPY), NUMPY),
        *(partial(expect, defense, *shape), partial(prepare, defense, *shape)),
        peers=peers,
        ask=partial(ask, defense, *shape) if peers else None,
        repeats=1 if clients * parameters > LARGE else 7,
    )


def defense_cases() -> Iterator[Case]:
    """Make W4."""
    for clients, parameters in SHAPES:
        for defense in FORMULAS:
            asked = clients * parameters <= LARGE or (defense, clients) == WITH_PEERS
            yield defense_case("W4", defense, clients, parameters, peers_of(defense) if asked else ())
