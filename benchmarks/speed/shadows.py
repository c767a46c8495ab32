"""W4-shadows: five defenses on the same updates, compared with one: they share the passes over the matrix.

Axes: N clients of the round, D parameters.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.cases import Case, Prepared
from benchmarks.speed.defenses import LARGE, OURS, TOLERANCE, arguments, least_bytes, operations, settings_of, verify
from benchmarks.speed.formulas import FORMULAS, Array, Matrix
from benchmarks.speed.workloads import make_updates
from rflbat.defenses.base import Updates
from rflbat.defenses.registry import make_defense
from rflbat.randomness import draw_source
from rflbat_kernels import finite_rows

FIVE = ("rflbat", "krum", "multikrum", "geomed", "rfa")
ONE = "rflbat one"
SHAPES = ((100, 7_850), (100, 220_000), (100, 5_780_000))


def expect(clients: int, parameters: int, folder: Path) -> None:
    """Store the results of the five formulas in float64."""
    updates = Matrix(make_updates(clients, parameters), exact=True)
    for defense in FIVE:
        np.save(folder / f"{defense}.npy", FORMULAS[defense](updates, settings_of(defense, clients, parameters)))


def prepare(clients: int, parameters: int, contender: str) -> Prepared:
    """Prepare all five defenses, or only the first."""
    matrix_ND = torch.from_numpy(make_updates(clients, parameters))
    names = FIVE[:1] if contender == ONE else FIVE
    defenses = [make_defense(name, arguments(name, clients, parameters)) for name in names]
    states = [defense.init(clients, parameters, matrix_ND.device) for defense in defenses]
    first: list[Array] = []

    def play() -> None:
        updates = Updates(
            values=matrix_ND,
            sizes_N=torch.ones(clients, dtype=torch.float64),
            client_ids_N=torch.arange(clients),
            valid_N=finite_rows(matrix_ND),
        )
        pairs = zip(defenses, states, strict=True)
        found = [each.apply(updates, state, draw_source(0, "defense", 0, "cpu")).update for each, state in pairs]
        if not first:
            first.extend(update_D.numpy() for update_D in found)

    def check(folder: Path) -> str:
        pairs = zip(names, first, strict=True)
        return [verify(found_D, folder, TOLERANCE[OURS], f"{name}.npy") for name, found_D in pairs][-1]

    return Prepared(play, check, f"{', '.join(names)}; torch {torch.__version__}")


def shadow_case(clients: int, parameters: int) -> Case:
    """Build the case of one shape.

    Args:
        clients: N.
        parameters: D.
    """
    shape = (clients, parameters)
    # One Gram matrix and a weighted sum for each defense: the matrix is read once for the former, once for all sums.
    task = operations("rflbat", *shape) + (len(FIVE) - 1) * operations("fedavg", *shape)
    return Case(
        f"W4-shadows-{clients}x{parameters}",
        f"{', '.join(FIVE)} on the same {clients:,} x {parameters:,}, beside {FIVE[0]} alone",
        *(*shape, task, least_bytes("rflbat", *shape), (OURS, ONE), ONE),
        *(partial(expect, *shape), partial(prepare, *shape)),
        repeats=4 if clients * parameters > LARGE else 8,
        blocks=2,
    )


def shadow_cases() -> Iterator[Case]:
    """Yield the cases."""
    return (shadow_case(*shape) for shape in SHAPES)
