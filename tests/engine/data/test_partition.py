"""Legend of the suffixes: N clients, C classes."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rflbat.data.partition import partition
from rflbat.data.registry import PARTITIONS
from rflbat.errors import UserError

Ints = npt.NDArray[np.int64]
ALPHAS = st.sampled_from([1e-300, 1e-6, 0.01, 0.1, 1.0, 2.0, 100.0, 1e9])
property_test = settings(derandomize=True, deadline=None, max_examples=100)


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `partition` that are allowed, with the extremes (one client, one class, a sample each) likely."""
    samples = draw(st.integers(1, 101))
    labels = draw(st.lists(st.integers(-3, draw(st.sampled_from([-3, 0, 9]))), min_size=samples, max_size=samples))
    writers = draw(st.lists(st.integers(-2, 11), min_size=samples, max_size=samples))
    kind = draw(st.sampled_from(PARTITIONS))
    most = len(set(writers)) if kind == "natural" else samples
    return {
        "kind": kind,
        "labels": np.array(labels),
        "clients": draw(st.sampled_from([1, most]) | st.integers(1, most)),
        "alpha": draw(ALPHAS),
        "rng": draw(st.integers(0, 2**32)),
        "writers": np.array(writers),
    }


def solve(problem: dict[str, Any]) -> list[Ints]:
    return partition(**{**problem, "rng": np.random.default_rng(problem["rng"])})


def class_counts_NC(parts: list[Ints], labels: Ints) -> Ints:
    return np.stack([np.bincount(labels[part], minlength=labels.max() + 1) for part in parts])


@property_test
@given(problems())
def test_every_sample_exactly_once_and_nobody_empty(problem: dict[str, Any]) -> None:
    parts = solve(problem)
    assert len(parts) == problem["clients"]
    assert all(len(part) > 0 and part.dtype == np.int64 for part in parts)
    assert all((np.diff(part) > 0).all() for part in parts)  # ascending, hence no sample twice within a client
    covered = np.sort(np.concatenate(parts))
    if problem["kind"] == "natural":
        taking_part = np.unique(problem["writers"][covered])
        assert len(taking_part) == problem["clients"]
        expected = np.flatnonzero(np.isin(problem["writers"], taking_part))
    else:
        expected = np.arange(len(problem["labels"]))
    np.testing.assert_array_equal(covered, expected)


@property_test
@given(problems())
def test_the_same_generator_gives_the_same_partition(problem: dict[str, Any]) -> None:
    before = {name: problem[name].copy() for name in ("labels", "writers")}
    for first, second in zip(solve(problem), solve(problem), strict=True):
        np.testing.assert_array_equal(first, second)
    for name, array in before.items():
        np.testing.assert_array_equal(problem[name], array)


@property_test
@given(problems())
def test_parts_share_no_memory(problem: dict[str, Any]) -> None:
    parts = solve(problem)
    wanted = [part.tolist() for part in parts[1:]]
    parts[0].fill(-1)
    assert [part.tolist() for part in parts[1:]] == wanted


@pytest.mark.parametrize("kind", PARTITIONS)
def test_another_seed_gives_another_partition(kind: str) -> None:
    labels, writers = np.arange(1001) % 10, np.arange(1001) % 63
    first, second = (partition(kind, labels, 7, 1.0, np.random.default_rng(seed), writers) for seed in (0, 1))
    assert [part.tolist() for part in first] != [part.tolist() for part in second]


@property_test
@given(problems())
def test_iid_sizes_differ_by_at_most_one(problem: dict[str, Any]) -> None:
    sizes = [len(part) for part in solve(problem | {"kind": "iid"})]
    assert max(sizes) - min(sizes) <= 1


def test_iid_ignores_the_order_of_the_samples() -> None:
    labels = np.repeat(np.arange(10), 1001)
    counts_NC = class_counts_NC(partition("iid", labels, 10, 1.0, np.random.default_rng(0)), labels)
    assert counts_NC.min() > 60  # about 100 of each class everywhere; a cut without a shuffle would give 0
    assert counts_NC.max() < 140


def test_clients_equal_samples_gives_one_each() -> None:
    labels = np.arange(101) % 10
    for kind in PARTITIONS:
        for alpha in (1e-300, 1.0, 1e9):
            parts = partition(kind, labels, 101, alpha, np.random.default_rng(0), np.arange(101))
            assert sorted(part.tolist() for part in parts) == [[number] for number in range(101)]


def test_dirichlet_with_large_alpha_is_nearly_even() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 60001)
    counts_NC = class_counts_NC(partition("dirichlet", labels, 101, 1e6, np.random.default_rng(1)), labels)
    even_C = np.bincount(labels) / 101
    assert np.abs(counts_NC - even_C).max() < 3
    assert np.abs(counts_NC.sum(axis=1) - len(labels) / 101).max() < 15


def test_dirichlet_with_small_alpha_is_skewed_in_class_and_quantity() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 60001)
    counts_NC = class_counts_NC(partition("dirichlet", labels, 101, 0.1, np.random.default_rng(1)), labels)
    sizes_N = counts_NC.sum(axis=1)
    assert sizes_N.max() > 5 * np.median(sizes_N)
    assert sizes_N.max() > 20 * sizes_N.min()
    main_class_N = counts_NC.max(axis=1) / sizes_N
    assert np.median(main_class_N) > 0.5  # 0.1 where classes are even


def test_dirichlet_shares_have_the_mean_and_the_spread_of_the_distribution() -> None:
    """A share is Beta(alpha, (N-1) alpha): mean 1/N, variance (N-1) / (N^2 (N alpha + 1)), for every client."""
    clients, alpha, per_class = 7, 0.5, 1001
    labels = np.repeat(np.arange(300), per_class)
    parts = partition("dirichlet", labels, clients, alpha, np.random.default_rng(2))
    shares_NC = class_counts_NC(parts, labels) / per_class
    variance = (clients - 1) / (clients**2 * (clients * alpha + 1))
    standard_error = (variance / 300) ** 0.5
    assert np.abs(shares_NC.mean(axis=1) - 1 / clients).max() < 4 * standard_error
    assert shares_NC.var() == pytest.approx(variance, rel=0.1)


def test_dirichlet_rounding_favours_nobody() -> None:
    """Even shares of 1.5 samples a class: a fixed rounding would give some clients 1 and others 2 in every class."""
    labels = np.repeat(np.arange(200), 15)
    sizes_N = [len(part) for part in partition("dirichlet", labels, 10, 1e9, np.random.default_rng(3))]
    assert max(sizes_N) - min(sizes_N) < 100  # 200 with fixed rounding; about 7 standard errors of 300 here


def test_dirichlet_shuffles_each_class_before_the_cut() -> None:
    labels = np.zeros(1001, dtype=np.int64)
    for part in partition("dirichlet", labels, 2, 1e6, np.random.default_rng(0)):
        assert 10 < np.count_nonzero(np.diff(part) == 1) < len(part) - 10  # one run of neighbours without a shuffle


def test_dirichlet_takes_for_an_empty_client_from_the_largest() -> None:
    """With alpha near 0 each class goes to one client whole; those that have nothing get theirs from the largest."""
    labels = np.repeat([0, 1], [50, 11])
    seen = {
        tuple(sorted(len(part) for part in partition("dirichlet", labels, 5, 1e-300, np.random.default_rng(seed))))
        for seed in range(50)
    }
    assert seen == {(1, 1, 1, 11, 47), (1, 1, 1, 1, 57)}


def test_dirichlet_gives_an_empty_client_a_random_sample() -> None:
    """Where one client of three got both classes, the first sample given away is of either class as often."""
    labels = np.repeat([0, 1], 101)
    given = []
    for seed in range(300):
        parts = partition("dirichlet", labels, 3, 1e-300, np.random.default_rng(seed))
        if max(map(len, parts)) == 200:
            given.append(next(labels[part[0]] for part in parts if len(part) == 1))
    assert len(given) > 60
    assert 0.3 < np.mean(given) < 0.7


def test_natural_keeps_whole_writers_in_order_of_their_ids() -> None:
    writers = np.array([7, 3, 3, 900, 7, -1, 3])
    labels = np.zeros(7, dtype=np.int64)
    parts = partition("natural", labels, 4, 1.0, np.random.default_rng(0), writers)
    assert [part.tolist() for part in parts] == [[5], [1, 2, 6], [0, 4], [3]]


def test_natural_chooses_every_writer_about_equally_often() -> None:
    writers = np.arange(21) % 7
    labels = np.zeros(21, dtype=np.int64)
    rng = np.random.default_rng(0)
    chosen = [writers[part[0]] for _ in range(700) for part in partition("natural", labels, 2, 1.0, rng, writers)]
    assert np.abs(np.bincount(chosen, minlength=7) - 200).max() < 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kind": "dirichelt"},
            "unknown partition 'dirichelt'; did you mean 'dirichlet'?; known: iid, dirichlet, natural",
        ),
        ({"kind": "iid", "clients": 0}, "clients is 0; allowed: at least 1"),
        ({"kind": "iid", "clients": 102}, "clients is 102; allowed: at most 101, the number of training samples"),
        ({"kind": "dirichlet", "clients": 102}, "clients is 102; allowed: at most 101, the number of training samples"),
        ({"kind": "natural", "clients": 64}, "clients is 64; allowed: at most 63, the number of writers"),
        ({"kind": "natural", "writers": np.zeros(7)}, "7 writers for 101 samples, expected one for each sample"),
        ({"alpha": 0.0}, "alpha is 0.0; allowed: greater than 0, at most 1e+09"),
        ({"alpha": -1.0}, "alpha is -1.0; allowed: greater than 0, at most 1e+09"),
        ({"alpha": float("nan")}, "alpha is nan; allowed: greater than 0, at most 1e+09"),
        ({"alpha": float("inf")}, "alpha is inf; allowed: greater than 0, at most 1e+09"),
    ],
)
def test_wrong_arguments_are_one_line(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "kind": "dirichlet",
        "labels": np.zeros(101, dtype=np.int64),
        "clients": 7,
        "alpha": 1.0,
        "rng": np.random.default_rng(0),
        "writers": np.arange(101) % 63,
    }
    with pytest.raises(UserError) as caught:
        partition(**(arguments | changes))
    assert str(caught.value) == message


def test_natural_without_writers_says_what_is_missing() -> None:
    with pytest.raises(UserError, match=r"who wrote each sample.*mnist_writers.*for amazon every table"):
        partition("natural", np.zeros(7, dtype=np.int64), 2, 1.0, np.random.default_rng(0))


def test_alpha_is_read_by_dirichlet_only() -> None:
    labels = np.arange(63) % 10
    assert len(partition("iid", labels, 7, float("nan"), np.random.default_rng(0))) == 7
