"""Inputs for the Triton kernels: what is interpreted on the host and what runs on a device are the same cases."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from rflbat_kernels import dispatch
from rflbat_kernels.implementations import Implementation
from tests.kernels.closeness import normal, uniform

SHORT = (torch.float16, torch.bfloat16, torch.float32)
DTYPES = (*SHORT, torch.float64)


@dataclass(frozen=True)
class Case:
    """One call of an operation."""

    op: str
    make: Callable[[], tuple[Any, ...]]
    """Returns the arguments."""

    def ready(
        self, name: str, move: Callable[[Tensor], Tensor]
    ) -> tuple[Callable[..., tuple[Tensor, ...]], tuple[Any, ...]]:
        """An implementation, which gives a tuple of parts, and the arguments, each tensor moved."""
        entry = dispatch.IMPLEMENTATIONS[self.op][name]
        function = entry.func if isinstance(entry, Implementation) else entry

        def parts(*arguments: Any) -> tuple[Tensor, ...]:
            found = function(*arguments)
            return tuple(found) if isinstance(found, tuple) else (found,)

        return parts, tuple(move(value) if isinstance(value, Tensor) else value for value in self.make())

    def results(self, name: str, move: Callable[[Tensor], Tensor] = lambda value: value) -> tuple[Tensor, ...]:
        """Return the result of an implementation for the arguments."""
        function, arguments = self.ready(name, move)
        return function(*arguments)


def assert_close(got: tuple[Tensor, ...], wanted: tuple[Tensor, ...], eps: float) -> None:
    """Each part has the type and shape of the wanted one, and its numbers to `eps` of the largest that is finite."""
    for part, truth in zip(got, wanted, strict=True):
        assert (part.dtype, part.shape) == (truth.dtype, truth.shape)
        largest = torch.where(truth.isfinite(), truth, 0).abs().max().item() if truth.numel() else 0.0
        torch.testing.assert_close(part, truth, rtol=0.0, atol=eps * largest, equal_nan=True)


def gapped(value: Tensor) -> Tensor:
    """The same numbers where no axis is without gaps, NaN between them."""
    wide = value.new_full([2 * size + 1 for size in value.shape], torch.nan)
    view = wide[tuple(slice(1, None, 2) for _ in value.shape)]
    return view.copy_(value)


def lstm(shape: tuple[int, ...], dtype: torch.dtype, scale: float = 3.0) -> tuple[Tensor, ...]:
    """Gates and cell of a step."""
    return scale * normal(*shape[:-1], 4 * shape[-1], dtype=dtype), normal(*shape, seed=1, dtype=dtype)


def lstm_back(shape: tuple[int, ...], dtype: torch.dtype, scale: float = 3.0) -> tuple[Tensor, ...]:
    """Return the arguments of the backward pass of that step."""
    gates, before = lstm(shape, dtype, scale)
    by_torch = import_module("rflbat_kernels.lstm_cell.torch")
    _, after, active = by_torch.lstm_cell(gates, before)
    return *(normal(*shape, seed=seed, dtype=dtype) for seed in (2, 3)), active, before, after


def lstm_cases() -> Iterator[tuple[str, Case]]:
    for op, make in (("lstm_cell", lstm), ("lstm_cell_backward", lstm_back)):
        for shape in ((1, 1), (1, 63), (7, 1), (5, 129), (3, 5, 7), (2, 1, 9, 33), (0, 5), (5, 0)):
            for dtype in DTYPES if shape == (3, 5, 7) else (torch.float32, torch.float64):
                yield f"{op} {shape} {dtype}", Case(op, lambda s=shape, d=dtype, m=make: m(s, d))
        for scale in (1e-30, 1e-4, 0.1, 30.0, 1e4, 1e30):
            for dtype in (torch.float32, torch.float64):
                yield f"{op} scale {scale} {dtype}", Case(op, lambda c=scale, d=dtype, m=make: m((3, 7), d, c))
        yield f"{op} gapped", Case(op, lambda m=make: tuple(map(gapped, m((3, 5, 7), torch.float32))))
        yield f"{op} turned", Case(op, lambda m=make: tuple(x.mT.contiguous().mT for x in m((3, 5, 7), torch.float32)))
        yield (
            f"{op} steps of a sequence",
            Case(
                op, lambda m=make: tuple(torch.stack([x, x + 9], 1).unbind(1)[0] for x in m((3, 5, 7), torch.float32))
            ),
        )


LSTM = dict(lstm_cases())

SHAPES = ((1, 1), (1, 63), (3, 1), (5, 0), (2, 32), (17, 101), (64, 33), (65, 70), (130, 67))
"""Rows and columns: one tile and several, each less or more than whole tiles."""


def spread(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Rows about a common part that most of their length is in."""
    return (normal(rows, columns) + 30 * normal(1, columns, seed=1)).to(dtype)


def hostile(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Every third row does not count and holds what must not be read; one that counts is huge, one tiny, one 0."""
    matrix, valid = spread(rows, columns, torch.float64), torch.arange(rows) % 3 > 0
    matrix[1], matrix[2], matrix[4] = matrix[1] * 1e30, matrix[2] * 1e-30, 0.0
    matrix[::3] = torch.nan
    matrix[::3, ::2] = -torch.inf
    return matrix.to(dtype), valid


def gram_cases() -> Iterator[tuple[str, Case]]:
    for shape in SHAPES:
        for dtype in DTYPES if shape in ((17, 101), (65, 70)) else (torch.float32,):
            yield f"{shape} {dtype}", Case("gram", lambda s=shape, d=dtype: (spread(*s, d),))
    yield "(0, 7)", Case("gram", lambda: (torch.ones(0, 7),))
    for rows in (17, 67):
        for dtype in (torch.float32, torch.float64):
            yield f"{rows} hostile rows {dtype}", Case("gram", lambda n=rows, d=dtype: hostile(n, 33, d))
        yield f"{rows} gapped", Case("gram", lambda n=rows: (gapped(spread(n, 33, torch.float32)),))
        yield f"{rows} turned", Case("gram", lambda n=rows: (spread(33, n, torch.float32).T,))
        yield f"{rows} repeated", Case("gram", lambda n=rows: (spread(1, 33, torch.float32).expand(n, 33),))
        yield f"{rows} none counts", Case("gram", lambda n=rows: (torch.full((n, 9), torch.nan), torch.zeros(n).bool()))


def order_cases() -> Iterator[tuple[str, Case]]:
    for op, more in (("column_median", ()), ("column_trimmed_mean", (0,)), ("column_trimmed_mean", (2,))):
        rest = tuple(map(torch.tensor, more))
        for shape in ((1, 1), (1, 33), (2, 5), (3, 1), (4, 7), (5, 0), (17, 37), (65, 16), (600, 3)):
            for dtype in DTYPES if shape == (17, 37) else (torch.float32, torch.float64)[: 1 + (shape[0] < 9)]:
                yield f"{op} {more} {shape} {dtype}", Case(op, lambda s=shape, d=dtype, r=rest: (spread(*s, d), *r))
        for rows, dtypes in ((6, SHORT), (17, DTYPES[3:])):
            for dtype in dtypes:
                make: Any = lambda n=rows, d=dtype, r=rest: masked(hostile(n, 33, d), r)  # noqa: E731
                yield f"{op} {more} {rows} hostile rows {dtype}", Case(op, make)
        for form, layout in (("gapped", gapped), ("turned", lambda x: x.T.contiguous().T)):
            yield f"{op} {more} {form}", Case(op, lambda f=layout, r=rest: (f(spread(17, 33, torch.float32)), *r))
        yield f"{op} {more} equal", Case(op, lambda r=rest: (torch.full((9, 5), 1 / 3), *r))
        yield f"{op} {more} few values", Case(op, lambda r=rest: (normal(23, 9, dtype=torch.float32).round(), *r))
        yield f"{op} {more} the largest", Case(op, lambda r=rest: (1.7e308 * normal(9, 7).sign(), *r))
        yield f"{op} {more} denormal", Case(op, lambda r=rest: (1e-40 * normal(9, 7, dtype=torch.float32), *r))
        none: Any = lambda r=rest: masked((torch.full((5, 7), torch.nan), torch.zeros(5).bool()), r)  # noqa: E731
        yield f"{op} {more} none counts", Case(op, none)
    for trim in (-1, 99):
        made: Any = lambda t=trim: (spread(8, 33, torch.float32), torch.tensor(t))  # noqa: E731
        yield f"trim {trim}", Case("column_trimmed_mean", made)


def masked(given: tuple[Tensor, Tensor], rest: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The mask comes last."""
    return given[0], *rest, given[1]


def sums_cases() -> Iterator[tuple[str, Case]]:
    for shape in ((1, 2), (63, 1), (17, 2), (130, 3), (3, 17, 2), (2, 3, 7, 2), (0, 2), (5, 0)):
        for dtype in DTYPES if shape == (3, 17, 2) else (torch.float64,):
            yield f"{shape} {dtype}", Case("distance_sums", lambda s=shape, d=dtype: (normal(*s, dtype=d) + 100,))
    for name, scale in (("small", 1e-150), ("large", 1e150), ("far", 1e8)):
        yield name, Case("distance_sums", lambda c=scale: (c + c * normal(17, 2).round(decimals=9),))
    valid = normal(3, 70, seed=1) > 0
    points = torch.where(valid[..., None], normal(3, 70, 2), torch.tensor([torch.nan, torch.inf]))
    yield "masked by set", Case("distance_sums", lambda: (points, valid))
    yield "masked", Case("distance_sums", lambda: (points[:1].expand(3, 70, 2), valid[0]))
    yield "none counts", Case("distance_sums", lambda: (points[0], valid[0] & ~valid[0]))
    yield "gapped", Case("distance_sums", lambda: (gapped(normal(3, 17, 2)),))
    yield "turned", Case("distance_sums", lambda: (normal(2, 17, 3).permute(2, 1, 0),))


def kmeans_cases() -> Iterator[tuple[str, Case]]:
    def call(points: Tensor, clusters: tuple[int, ...], *mask: Tensor, restarts: int = 2) -> Case:
        draws = uniform(len(points), len(clusters), restarts, max(clusters))
        return Case("kmeans", lambda: (points, clusters, draws, *mask))

    for shape in ((1, 1, 1), (1, 2, 3), (2, 33, 1), (1, 130, 2), (2, 17, 5)):
        yield f"{shape}", call(normal(*shape), (1, 3, 2))
    for dtype in SHORT:
        yield f"{dtype}", call(normal(1, 33, 2, dtype=dtype), (4,))
    valid = torch.arange(35) % 3 > 0
    spoiled = torch.where(valid[:, None], normal(2, 35, 2), torch.tensor([torch.nan, torch.inf]))
    yield "masked", call(spoiled, (2, 5), valid)
    yield "masked by set", call(spoiled, (2, 5), torch.stack([valid, valid & (torch.arange(35) > 9)]))
    yield "none counts", call(torch.full((1, 7, 2), torch.nan), (1, 3), torch.zeros(7).bool())
    yield "equal points", call(torch.full((1, 9, 2), 1 / 3), (1, 4))
    yield "few distinct points", call(normal(1, 3, 2).repeat(1, 5, 1), (2, 6))
    yield "ties", call(torch.tensor([[[0.0], [1.0], [2.0], [3.0], [4.0]]]), (2, 3))
    for scale in (1e-100, 1e38, 1e150):
        yield f"scale {scale}", call(scale * normal(1, 33, 2), (3,))
    yield "far", call(1e8 + normal(1, 33, 2), (3,))
    yield "gapped", call(gapped(normal(2, 17, 2)), (2,))
    yield "many clusters", call(normal(1, 70, 2), (66,), restarts=1)


KMEANS = dict(kmeans_cases())
SUMS = dict(sums_cases())
GRAM, ORDER = dict(gram_cases()), dict(order_cases())
CASES = {f"{case.op}: {name}": case for part in (GRAM, KMEANS, LSTM, ORDER, SUMS) for name, case in part.items()}
