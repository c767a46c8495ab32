"""Hostile updates: the result is finite, no client that sent nonsense is kept, and each of them is counted.

Axes: N clients of the round, D parameters.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from rflbat.aggregation import aggregate
from rflbat.defenses.base import NONFINITE, Decision
from rflbat.defenses.registry import DEFENSES, make_defense
from rflbat.errors import UserError
from rflbat.testing.subject import supplied
from tests.engine.defenses.hostile import ROWS, TYPES, DLPackOnly, Hostile, hostile_rounds

FAST, SLOW = 30, 800
LARGEST = 1e100
ORDERLESS = {"fedavg", "median", "trimmed_mean", "norm_clipping", "rfa", "geomed", "auror", "autoencoder"}
SCORED = {"krum", "multikrum"}
UNBOUNDED = {"foolsgold", "norm_clipping", "fltrust", "flame", "deepsight"}
"""Defenses that may leave the range of the kept updates: by an unnormalised sum, by noise or by shortening."""


def as_tensor(given_ND: Any) -> Tensor:
    """A copy of what was handed over, as a dense torch tensor."""
    if isinstance(given_ND, DLPackOnly):
        return as_tensor(given_ND.array)
    if isinstance(given_ND, Tensor):
        return given_ND.detach().clone(memory_format=torch.contiguous_format)
    return torch.from_numpy(np.array(given_ND, order="C"))


def raw(tensor: Tensor) -> bytes:
    """The bits, in which NaN equals NaN and 0 differs from -0."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def bits(decision: Decision) -> list[bytes]:
    """All that a decision says, but for its state."""
    parts = (decision.update, decision.kept, decision.weights, decision.scores, *decision.trace.values())
    return [raw(part) for part in parts]


def check(case: Hostile) -> None:
    """Whatever the round: finite, counted, consistent, repeatable; the input is not written to."""
    rows_ND = case.rows(case.kinds, 0)
    handed = case.handed(rows_ND)
    before_ND = as_tensor(handed)
    more: dict[str, Any] = {"sizes": case.sizes, "seed": case.seed, **(case.parameters or {})}
    more |= supplied(make_defense(case.name, case.parameters or {}), case.width)
    if case.name == "autoencoder":
        more["clean"] = case.rows(case.clean, 1)
    decision = aggregate(handed, case.name, **more)
    if more.pop("clean", None) is not None:
        more["state"] = decision.state

    wrong_N = ~(before_ND.double().abs() <= LARGEST).all(1)
    stages = make_defense(case.name, case.parameters or {}).stages
    stage = [stages[at] for at in decision.trace["stage"].tolist()]
    assert [each == "nonfinite" for each in stage] == wrong_N.tolist()
    assert not decision.kept[wrong_N].any()
    assert [each == "kept" for each in stage] == decision.kept.tolist()
    assert torch.equal(decision.kept, decision.weights > 0)
    assert float(decision.weights.sum()) == pytest.approx(1.0 if bool(decision.kept.any()) else 0.0, abs=1e-12)
    assert not decision.scores.isnan().any()
    assert decision.update.dtype == case.dtype
    assert decision.update.shape == (case.width,)
    assert decision.update.isfinite().all()
    if not decision.kept.any():
        assert not decision.update.any()
    elif case.name not in UNBOUNDED:
        kept_MD = before_ND[decision.kept].double()
        rounding = torch.finfo(case.dtype).eps + 2 * len(kept_MD) * torch.finfo(torch.float64).eps
        slack_D = rounding * kept_MD.abs().amax(0) + torch.finfo(case.dtype).smallest_normal
        assert (decision.update.double() <= kept_MD.amax(0) + slack_D).all()
        assert (decision.update.double() >= kept_MD.amin(0) - slack_D).all()

    assert raw(as_tensor(handed)) == raw(before_ND)
    assert bits(aggregate(handed, case.name, **more)) == bits(decision)
    # The content of a refused row is never read.
    worse = case.handed(rows_ND.masked_fill(~(rows_ND.double().abs() <= LARGEST), torch.nan))
    assert bits(aggregate(worse, case.name, **more)) == bits(decision)
    check_order(case, before_ND, more, decision)


def check_order(case: Hostile, before_ND: Tensor, more: dict[str, Any], decision: Decision) -> None:
    """Clients in another order get the same, each at its place; what ties decide is left out."""
    order_N = np.random.default_rng(case.seed).permutation(len(before_ND))
    sizes = None if case.sizes is None else [case.sizes[at] for at in order_N]
    moved = aggregate(before_ND[order_N], case.name, **{**more, "sizes": sizes})
    wrong_N = decision.trace["stage"] == NONFINITE
    assert torch.equal(moved.trace["stage"] == NONFINITE, wrong_N[order_N])
    if case.name in SCORED:
        torch.testing.assert_close(moved.scores, decision.scores[order_N], rtol=1e-6, atol=0)
    if case.name in ORDERLESS:
        assert torch.equal(moved.kept, decision.kept[order_N])
        torch.testing.assert_close(moved.weights, decision.weights[order_N], rtol=1e-6, atol=1e-9)
        longest = before_ND[~wrong_N].double().abs().sum()
        error = (moved.update.double() - decision.update.double()).abs().sum()
        assert error <= 1e-6 * longest + 4 * torch.finfo(case.dtype).eps * longest


def explore(name: str, examples: int) -> None:
    """Check a number of rounds, the same ones at every call; a smaller number is an error."""
    cases = []

    @settings(derandomize=True, deadline=None, max_examples=examples, database=None)
    @given(hostile_rounds(name))
    def run(case: Hostile) -> None:
        cases.append(case)
        check(case)

    run()
    assert len(cases) >= examples


@pytest.mark.parametrize("name", DEFENSES)
def test_hostile_rounds(name: str) -> None:
    """Hundreds of rounds, over the whole registry."""
    explore(name, FAST)


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFENSES)
def test_ten_thousand_hostile_rounds(name: str) -> None:
    """12,800 rounds, minutes of CPU time (`time pytest -m slow tests/engine/defenses/test_hostile.py`)."""
    assert SLOW * len(DEFENSES) >= 10_000
    explore(name, SLOW)


FOUND = {
    "scores overflowed to Inf, and the first client was taken": [
        Hostile(name, ("1e151",) * 3 + ("honest",) * 6) for name in ("krum", "multikrum", "bulyan")
    ],
    "distances overflowed, and the weights were NaN": [
        Hostile(name, ("largest float64", "honest", "1e200", "honest")) for name in ("geomed", "rfa")
    ],
    "the norm overflowed": [Hostile("norm_clipping", ("honest", "honest", "1e200"))],
    "the plane overflowed": [Hostile("rflbat", ("1e151",)), Hostile("rflbat", ("honest",) * 7 + ("1e200",) * 2)],
    "more clients to average than int64 holds": [Hostile("multikrum", ("honest",) * 3, parameters={"m": 10**30})],
    "one size beside another that dwarfs it": [
        Hostile(name, ("largest taken",) * 4, sizes=(1e18, 1e-15, 1.0, 1e18)) for name in DEFENSES
    ],
    "many clients of every kind": [Hostile(name, tuple(ROWS) * 3, dtype=dtype) for name in DEFENSES for dtype in TYPES],
    "the smallest smoothing beside the largest sizes": [
        Hostile("rfa", ("largest taken",) * 4, sizes=(1e18, 1e-15, 1.0, 1e18), parameters={"nu": 1e-100})
    ],
}


@pytest.mark.parametrize("case", [case for cases in FOUND.values() for case in cases], ids=lambda case: case.name)
def test_what_once_failed_or_lies_at_a_bound(case: Hostile) -> None:
    check(case)


ROUND = np.ones((3, 2))


def float_of_8_bits() -> Tensor:
    return torch.ones(3, 2).to(torch.float8_e4m3fn)


def refuses_dlpack() -> DLPackOnly:
    return DLPackOnly(torch.ones(3, 2).requires_grad_())


MISTAKES: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "rows of different lengths": (lambda: [[1.0, 2.0], [1.0]], {}, "updates are a list; expected a torch tensor"),
    "a list of tensors": (lambda: [torch.ones(2)] * 3, {}, "updates are a list"),
    "text": (lambda: np.array([["a", "b"]]), {}, "updates are of type <U1; expected a floating-point type"),
    "objects": (lambda: np.array([[1.0, None]], dtype=object), {}, "updates are of type object"),
    "complex": (lambda: torch.ones(3, 2, dtype=torch.complex64), {}, "updates are of type torch.complex64; expected"),
    "integers": (lambda: torch.ones(3, 2, dtype=torch.int32), {}, "updates are of type torch.int32; expected a float"),
    "integers by DLPack": (lambda: DLPackOnly(torch.ones(3, 2, dtype=torch.int8)), {}, "of type torch.int8; expected"),
    "float of 8 bits": (float_of_8_bits, {}, "of type torch.float8_e4m3fn; expected .* float16, bfloat16, float32 or"),
    "long double": (lambda: ROUND.astype(np.longdouble), {}, "updates are of type .*; expected .* float64 in native"),
    "a sparse tensor": (lambda: torch.ones(3, 2).to_sparse(), {}, "the layout torch.sparse_coo; expected a dense"),
    "a masked array": (lambda: np.ma.masked_invalid(ROUND), {}, "a masked array; expected one without a mask"),
    "DLPack that refuses": (refuses_dlpack, {}, "DLPackOnly that cannot be taken by DLPack: .*gradient"),
    "one axis": (lambda: np.ones(3), {}, r"the shape \(3,\); expected \(clients, parameters\)"),
    "three axes": (lambda: np.ones((1, 3, 2)), {}, r"the shape \(1, 3, 2\); expected"),
    "no clients": (lambda: np.ones((0, 2)), {}, r"the shape \(0, 2\); expected"),
    "no parameters": (lambda: torch.ones(3, 0), {}, r"the shape \(3, 0\); expected"),
    "no defense": (lambda: ROUND, {"defense": None}, "unknown defense None; known: fedavg"),
    "a list of defenses": (lambda: ROUND, {"defense": ["krum"]}, "unknown defense .*; known: fedavg"),
    "a seed that is no integer": (lambda: ROUND, {"seed": 1.0}, "seed is 1.0; expected an integer"),
    "a huge size": (lambda: ROUND, {"sizes": [1, 2, 1e308]}, r"sizes\[2\] is 1e\+308; .* from 1e-15 to 1e\+18"),
    "a tiny size": (lambda: ROUND, {"sizes": [5e-324, 1, 1]}, r"sizes\[0\] is 4.94066e-324; expected"),
    "complex sizes": (lambda: ROUND, {"sizes": np.ones(3) + 1j}, "sizes are a ndarray of values that are not real"),
    "complex sizes of torch": (lambda: ROUND, {"sizes": torch.ones(3) + 1j}, "a Tensor of values that are not"),
    "ragged sizes": (lambda: ROUND, {"sizes": [1, [2], 3]}, "sizes are a list of values that are not real numbers"),
    "no sizes": (lambda: ROUND, {"sizes": [None] * 3}, "sizes are a list of values that are not real numbers"),
    "sparse sizes": (lambda: ROUND, {"sizes": torch.ones(3).to_sparse()}, "a Tensor of values that are not real"),
    "smoothing that is as good as 0": (
        lambda: ROUND,
        {"defense": "rfa", "nu": 5e-324},
        "nu=5e-324 a number from 1e-100",
    ),
    "clean updates out of range": (
        lambda: ROUND,
        {"defense": "autoencoder", "clean": np.full((3, 2), 1e200)},
        "all 3 clean updates hold NaN or Inf, or a number beyond 1e100; at least one must be finite",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_the_caller_is_told_in_clear_words(mistake: str) -> None:
    make, keywords, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message) as caught:
        aggregate(make(), **keywords)
    assert "\n" not in str(caught.value)


def test_sizes_of_half_precision_are_numbers() -> None:
    sizes_N = torch.tensor([1.0, 2.0, 5.0], dtype=torch.bfloat16)
    assert aggregate(ROUND, "fedavg", sizes=sizes_N).weights.tolist() == [1 / 8, 2 / 8, 5 / 8]
