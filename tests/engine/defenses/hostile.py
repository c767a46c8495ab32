"""Hostile rounds for hypothesis: rows, element types, layouts, sizes and parameters of every defense, mixed at will.

Axes: N clients of the round, D parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
MOST_CLIENTS, MOST_PARAMETERS = 12, 40
TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _holding(value: float) -> Callable[[np.random.Generator, int], Array]:
    """An honest row with one coordinate replaced."""

    def row(rng: np.random.Generator, parameters: int) -> Array:
        row_D = rng.standard_normal(parameters)
        row_D[rng.integers(parameters)] = value
        return row_D

    return row


def _signs(value: float) -> Callable[[np.random.Generator, int], Array]:
    return lambda rng, parameters: value * rng.choice([-1.0, 1.0], parameters)


ROWS: Mapping[str, Callable[[np.random.Generator, int], Array]] = {
    "honest": lambda rng, parameters: rng.standard_normal(parameters),
    "small": lambda rng, parameters: 1e-3 * rng.standard_normal(parameters),
    "zero": lambda rng, parameters: np.zeros(parameters),
    "negative zero": lambda rng, parameters: np.full(parameters, -0.0),
    "same": lambda rng, parameters: np.cos(np.arange(parameters)),
    "opposite": lambda rng, parameters: -np.cos(np.arange(parameters)),
    "ones": lambda rng, parameters: np.ones(parameters),
    "shifted": lambda rng, parameters: 1e3 + rng.standard_normal(parameters),
    "one coordinate": lambda rng, parameters: 1e4 * (np.arange(parameters) == rng.integers(parameters)),
    "largest float16": _signs(65504.0),
    "1e12": _signs(1e12),
    "1e38": _signs(1e38),
    "largest float32": lambda rng, parameters: np.full(parameters, 3.4028234663852886e38),
    "largest taken": _signs(1e100),
    "1e151": _signs(1e151),
    "1e200": _holding(1e200),
    "largest float64": _signs(1.7976931348623157e308),
    "denormal float16": _signs(6e-8),
    "denormal float32": _signs(1e-45),
    "1e-170": lambda rng, parameters: 1e-170 * rng.standard_normal(parameters),
    "denormal float64": _signs(5e-324),
    "all NaN": lambda rng, parameters: np.full(parameters, np.nan),
    "one NaN": _holding(np.nan),
    "one Inf": _holding(np.inf),
    "one -Inf": _holding(-np.inf),
    "both Inf": lambda rng, parameters: rng.choice([np.inf, -np.inf], parameters),
}


class DLPackOnly:
    """An array of a library that torch has never heard of."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **keywords: Any) -> Any:
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def _read_only(matrix_ND: Tensor) -> Any:
    array_ND = matrix_ND.numpy().copy()
    array_ND.setflags(write=False)
    return array_ND


LAYOUTS: Mapping[str, Callable[[Tensor], Any]] = {
    "plain": lambda matrix_ND: matrix_ND,
    "transposed": lambda matrix_ND: matrix_ND.T.contiguous().T,
    "every second column": lambda matrix_ND: matrix_ND.repeat_interleave(2, 1)[:, ::2],
    "every second row": lambda matrix_ND: matrix_ND.repeat_interleave(2, 0)[::2],
    "inside another": lambda matrix_ND: torch.nn.functional.pad(matrix_ND, (3, 1, 1, 2), value=torch.nan)[1:-2, 3:-1],
    "flipped": lambda matrix_ND: matrix_ND.flip(0).flip(1),
    "one row repeated": lambda matrix_ND: matrix_ND[:1].expand(len(matrix_ND), -1),
    "one column repeated": lambda matrix_ND: matrix_ND[:, :1].expand(-1, matrix_ND.shape[1]),
    "with gradient": lambda matrix_ND: matrix_ND.clone().requires_grad_(),
    "result with gradient": lambda matrix_ND: matrix_ND.clone().requires_grad_() + 0,
    "DLPack of torch": DLPackOnly,
}
NUMPY_LAYOUTS: Mapping[str, Callable[[Tensor], Any]] = {
    "numpy": lambda matrix_ND: matrix_ND.numpy(),
    "numpy, columns first": lambda matrix_ND: np.asfortranarray(matrix_ND.numpy()),
    "numpy, backwards": lambda matrix_ND: matrix_ND.numpy()[::-1, ::-1],
    "numpy, broadcast": lambda matrix_ND: np.broadcast_to(matrix_ND.numpy()[0], matrix_ND.shape),
    "numpy, read only": _read_only,
    "DLPack of numpy": lambda matrix_ND: DLPackOnly(matrix_ND.numpy()),
}
"""Numpy has no bfloat16."""

_few = st.integers(1, 20)
_positive = st.sampled_from([5e-324, 1e-100, 1e-6, 0.5, 1.0, 3.0, 1e38, 1e300])


def parameters_of(name: str, clients: int) -> st.SearchStrategy[dict[str, Any]]:
    """Draw parameters that the defense allows for this number of clients, including extreme ones."""
    known: dict[str, dict[str, st.SearchStrategy[Any]]] = {
        "rflbat": {
            "clusters": st.sampled_from([1, 2, 3, 12, "gap", "gap2", "silhouette"]),
            "eps1": _positive,
            "eps2": _positive,
            "weighting": st.sampled_from(["samples", "uniform"]),
            "pca": st.sampled_from(["gram", "lowrank"]),
        },
        "foolsgold": {"memory": st.booleans(), "kappa": _positive, "normalise": st.booleans()},
        "krum": {"f": st.none() | st.integers(0, clients - 3)} if clients >= 3 else {},
        "multikrum": {"m": st.none() | _few, **({"f": st.integers(0, clients - 3)} if clients >= 3 else {})},
        "geomed": {"tolerance": st.sampled_from([0.0, 1e-9, 1e300]), "passes": _few},
        "rfa": {"nu": st.sampled_from([1e-100, 1e-6, 1.0, 1e100]), "passes": _few},
        "trimmed_mean": {"f": st.none() | st.integers(0, (clients - 1) // 2)},
        "bulyan": {"f": st.none() | st.integers(0, (clients - 3) // 4)} if clients >= 3 else {},
        "norm_clipping": {"bound": st.none() | _positive, "noise": st.sampled_from([0.0, 1.0, 1e300])},
        "auror": {"alpha": st.none() | _positive, "share": st.sampled_from([0.0, 0.3, 0.5, 1.0])},
        "fltrust": {"fallback": st.sampled_from(["keep", "uniform"])},
        "flame": {
            "noise": st.sampled_from([0.0, 1.0, 1e300]),
            "vector": st.sampled_from(["model", "update"]),
            "bound": st.sampled_from(["all", "kept"]),
            "min_samples": _few,
        },
        "deepsight": {
            "seeds": st.integers(1, 3),
            "tau": st.sampled_from([1e-9, 1 / 3, 1.0]),
            "min_cluster_size": st.integers(2, 9),
            "min_samples": _few,
            "outliers": st.sampled_from(["together", "alone"]),
            "bound": st.sampled_from(["all", "kept"]),
        },
        "autoencoder": {"surrogate": _few, "hidden": _few, "code": _few, "epochs": st.integers(1, 2)},
    }
    needed = {"samples": st.integers(1, 30)} if name == "deepsight" else {}
    return st.fixed_dictionaries(needed, optional=known.get(name, {}))


@dataclass(frozen=True)
class Hostile:
    """A round, as a caller would hand it over.

    Args:
        name: the defense.
        kinds: of the rows, keys of `ROWS`.
        width: D.
        dtype: of the elements.
        layout: a key of `LAYOUTS` or `NUMPY_LAYOUTS`.
        sizes: samples of the clients, or None.
        parameters: of the defense.
        clean: kinds of the clean updates, for a defense that learns from some.
        seed: of the rows' numbers and of the defense's draws.
    """

    name: str
    kinds: tuple[str, ...]
    width: int = 7
    dtype: torch.dtype = torch.float64
    layout: str = "plain"
    sizes: tuple[float, ...] | None = None
    parameters: Mapping[str, Any] | None = None
    clean: tuple[str, ...] = ("honest", "honest", "honest")
    seed: int = 0

    def rows(self, kinds: tuple[str, ...], stream: int) -> Tensor:
        """Make the rows of the given kinds in the case's type."""
        rng = np.random.default_rng([self.seed, stream])
        return torch.from_numpy(np.stack([ROWS[kind](rng, self.width) for kind in kinds])).to(self.dtype)

    def handed(self, matrix_ND: Tensor) -> Any:
        """Lay rows out as the case wants them."""
        return {**LAYOUTS, **NUMPY_LAYOUTS}[self.layout](matrix_ND)


@st.composite
def hostile_rounds(draw: st.DrawFn, name: str) -> Hostile:
    """Draw a round for a defense."""
    clients = draw(st.integers(1, MOST_CLIENTS))
    kinds = st.sampled_from(list(ROWS))
    dtype = draw(st.sampled_from(TYPES))
    layouts = [*LAYOUTS, *([] if dtype == torch.bfloat16 else NUMPY_LAYOUTS)]
    # A few kinds only, so that equal ones meet.
    few = st.sampled_from(draw(st.lists(kinds, min_size=1, max_size=5)))
    sizes = st.sampled_from([1e-15, 1e-3, 1.0, 1.5, 7.0, 600.0, 1e18])
    return Hostile(
        name=name,
        kinds=tuple(draw(st.lists(few, min_size=clients, max_size=clients))),
        width=draw(st.integers(2 if name == "deepsight" else 1, MOST_PARAMETERS)),
        dtype=dtype,
        layout=draw(st.sampled_from(layouts)),
        sizes=draw(st.none() | st.tuples(*[sizes] * clients)),
        parameters=draw(parameters_of(name, clients)),
        clean=("honest", *draw(st.lists(kinds, max_size=3))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
