"""`rflbat.aggregate`: what it takes, what it refuses, and in which words.

Axes: N clients of the round, D parameters.
"""

from functools import cache

import numpy as np
import pytest
import torch

import rflbat
from rflbat.aggregation import aggregate
from rflbat.errors import UserError
from tests.engine.defenses.cases import PARAMETERS, scattered


class DLPackOnly:
    """An array of a library that torch has never heard of."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **keywords):
        return self._array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def refused(message, updates_ND=None, defense="fedavg", **more):
    updates_ND = scattered(7, 0) if updates_ND is None else updates_ND
    with pytest.raises(UserError, match=message) as caught:
        aggregate(updates_ND, defense, **more)
    assert "\n" not in str(caught.value)


def test_it_is_public():
    assert rflbat.aggregate is aggregate


@pytest.mark.parametrize(
    "convert",
    [
        torch.as_tensor,
        np.asfortranarray,
        lambda array: np.repeat(array, 2, 1)[:, ::2],
        lambda array: torch.as_tensor(array.T.copy()).T,
        lambda array: torch.as_tensor(array).requires_grad_(),
        DLPackOnly,
        lambda array: DLPackOnly(torch.as_tensor(array)),
    ],
    ids=[
        "torch",
        "columns first",
        "every second column",
        "torch, transposed",
        "with gradient",
        "DLPack",
        "DLPack torch",
    ],
)
def test_any_array_gives_the_same_answer(convert):
    updates_ND = scattered(7, 0)
    expected = aggregate(updates_ND, "rflbat", sizes=range(1, 8))
    found = aggregate(convert(updates_ND), "rflbat", sizes=range(1, 8))
    torch.testing.assert_close(found.update, expected.update, rtol=1e-12, atol=1e-12)
    assert torch.equal(found.kept, expected.kept)
    assert not found.update.requires_grad


def test_read_only_input_is_fine():
    updates_ND = scattered(7, 0)
    expected = aggregate(updates_ND, "fedavg").update
    updates_ND.setflags(write=False)
    assert torch.equal(aggregate(updates_ND, "fedavg").update, expected)


def test_rows_in_reverse_order_are_taken_or_refused_in_clear_words():
    """A negative stride is common in numpy, and torch cannot hold one."""
    updates_ND = scattered(7, 0)
    try:
        decision = aggregate(updates_ND[::-1], "krum")
    except UserError as error:
        assert "stride" in str(error)  # noqa: PT017 (either way will do)
    else:
        assert torch.equal(decision.kept.flip(0), aggregate(updates_ND, "krum").kept)


@pytest.mark.parametrize(
    "sizes",
    [[1, 2, 3, 4, 5, 6, 7], range(1, 8), np.arange(1, 8), torch.arange(1, 8), np.arange(1.0, 8.0, dtype=np.float32)],
    ids=["list", "range", "numpy", "torch", "float32"],
)
def test_sizes_in_any_form(sizes):
    updates_ND = scattered(7, 0)
    expected_D = np.arange(1, 8) @ updates_ND / 28
    np.testing.assert_allclose(aggregate(updates_ND, "fedavg", sizes=sizes).update.numpy(), expected_D, atol=1e-14)


@pytest.mark.parametrize("shape", [(63,), (1, 7, 63), (0, 63), (7, 0), ()])
def test_wrong_shapes(shape):
    refused(r"updates have the shape .*expected \(clients, parameters\)", np.zeros(shape))


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.bool_, np.complex128])
def test_wrong_element_types(kind):
    refused("expected a floating-point type", np.ones((7, 63)).astype(kind))


@pytest.mark.parametrize(
    "updates",
    [[[1.0, 2.0], [3.0, 4.0]], "updates", 3.0, np.ones((2, 3), dtype=object), np.ones((2, 3), dtype=">f8")],
    ids=["list", "text", "number", "objects", "other byte order"],
)
def test_what_is_no_array_is_refused_in_clear_words(updates):
    refused("updates", updates)


@pytest.mark.parametrize("sizes", [[1, 2], 3, np.ones((7, 1)), []], ids=str)
def test_sizes_of_the_wrong_shape(sizes):
    refused(r"sizes have the shape .*expected \(7,\), one per client", sizes=sizes)


@pytest.mark.parametrize(
    "sizes",
    ["seven", [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0], [0] * 7, [float("nan")] + [1.0] * 6, [float("inf")] + [1.0] * 6],
    ids=["text", "negative", "zero", "nan", "inf"],
)
def test_sizes_that_are_no_numbers_of_samples(sizes):
    """A negative size reverses its client's update; NaN or only zeros leave no client."""
    refused("sizes", sizes=sizes)


@pytest.mark.parametrize(
    ("defense", "message"),
    [
        ("rflbt", "unknown defense 'rflbt'; did you mean 'rflbat'.; known: .*foolsgold"),
        ("Krum", "did you mean 'krum'"),
        ("nothing-like-it", "unknown defense 'nothing-like-it'; known: fedavg"),
        ("", "unknown defense ''"),
    ],
)
def test_unknown_defense(defense, message):
    refused(message, defense=defense)


@pytest.mark.parametrize(
    ("defense", "parameters", "message"),
    [
        ("rflbat", {"cluster": 2}, "defense 'rflbat' has no parameter 'cluster'; did you mean 'clusters'"),
        ("rflbat", {"eps": 2.0}, "did you mean 'eps"),
        ("fedavg", {"f": 2}, "'fedavg' has no parameter 'f'; it takes none"),
        ("krum", {"m": 2}, "'krum' has no parameter 'm'; it takes f"),
        ("rflbat", {"clusters": 2.5}, "clusters=2.5 is not of type"),
        ("rflbat", {"clusters": True}, "clusters=True is not of type"),
        ("rflbat", {"eps1": "ten"}, "eps1='ten' is not of type float"),
        ("rflbat", {"weighting": 3}, "weighting=3 is not of type str"),
        ("krum", {"f": 1.5}, "f=1.5 is not of type"),
        ("multikrum", {"m": "many"}, "m='many' is not of type"),
        ("foolsgold", {"memory": "perhaps"}, "memory='perhaps' is not of type bool"),
        ("foolsgold", {"memory": 1}, "memory=1 is not of type bool"),
        ("geomed", {"passes": 2.5}, "passes=2.5 is not of type int"),
    ],
)
def test_unknown_or_unfit_parameters(defense, parameters, message):
    refused(message, defense=defense, **parameters)


def test_parameters_as_text_as_the_command_line_gives_them():
    updates_ND = scattered(13, 0)
    for defense, text, value in (
        ("rflbat", {"clusters": "3", "eps1": "8", "eps2": "1.5"}, {"clusters": 3, "eps1": 8, "eps2": 1.5}),
        ("krum", {"f": "2"}, {"f": 2}),
        ("multikrum", {"m": "none"}, {"m": None}),
        ("foolsgold", {"memory": "false", "normalise": "False"}, {"memory": False, "normalise": False}),
    ):
        one, two = aggregate(updates_ND, defense, **text), aggregate(updates_ND, defense, **value)
        assert torch.equal(one.update, two.update)


def test_the_seed_is_the_only_source_of_chance():
    updates_ND = np.random.default_rng(6).standard_normal((31, PARAMETERS))
    answers = [tuple(aggregate(updates_ND, "rflbat", clusters=6, seed=s).kept.tolist()) for s in (0, 1, 2, 3, 0)]
    assert answers[0] == answers[4]
    assert len(set(answers)) > 1


def test_state_is_handed_on():
    updates_ND = np.eye(3)[[0, 1, 2]]
    first = aggregate(updates_ND, "foolsgold")
    assert first.state.history_CD.tolist() == updates_ND.tolist()
    second = aggregate(updates_ND, "foolsgold", state=first.state)
    assert second.state.history_CD.tolist() == (2 * updates_ND).tolist()
    assert first.state.history_CD.tolist() == updates_ND.tolist()
    # a smaller round: row i is client i
    third = aggregate(updates_ND[:2], "foolsgold", state=second.state)
    assert third.state.history_CD.tolist() == [[3, 0, 0], [0, 3, 0], [0, 0, 2]]


STRANGE_STATES = {
    "another defense's": lambda: aggregate(scattered(7, 0), "fedavg").state,
    "text": lambda: "state",
    "fewer clients": lambda: aggregate(scattered(5, 0), "foolsgold").state,
    "other parameters": lambda: aggregate(scattered(7, 0)[:, :63], "foolsgold").state,
}


@pytest.mark.parametrize("kind", STRANGE_STATES)
def test_a_state_that_does_not_fit_is_refused(kind):
    """Interpreted as no state it would silently switch FoolsGold's memory off."""
    refused("state", defense="foolsgold", state=STRANGE_STATES[kind]())


DETECTOR = {"surrogate": 40, "hidden": 6, "code": 2, "epochs": 2}


@cache
def detector():
    return aggregate(scattered(7, 0), "autoencoder", clean=scattered(9, 1), **DETECTOR).state


def test_a_defense_that_learns_takes_clean_updates_or_a_state():
    updates_ND = scattered(7, 0)
    refused("autoencoder needs clean updates .*; pass clean= an .* or state=", defense="autoencoder")
    refused("both state= and clean=", defense="autoencoder", clean=scattered(9, 1), state=detector(), **DETECTOR)
    refused("fedavg does not learn from clean updates", clean=scattered(9, 1))
    again = aggregate(torch.as_tensor(updates_ND), "autoencoder", clean=DLPackOnly(scattered(9, 1)), **DETECTOR)
    later = aggregate(updates_ND, "autoencoder", state=detector(), **DETECTOR)
    assert torch.equal(again.scores, later.scores)
    # a larger round too: the state is not about single clients
    assert aggregate(scattered(70, 0), "autoencoder", state=detector(), **DETECTOR).kept.any()


@pytest.mark.parametrize(
    ("clean", "message"),
    [
        (np.ones((4, 50)), r"clean updates have the shape \(4, 50\); expected \(any number, 101\)"),
        (np.ones(101), r"clean updates have the shape \(101,\)"),
        ([[1.0] * 101], "clean updates are a list"),
        (np.ones((4, 101), dtype=int), "clean updates are of type"),
        (np.full((4, 101), np.nan), "all 4 clean updates hold NaN or Inf"),
    ],
    ids=["width", "one row", "list", "integers", "NaN"],
)
def test_clean_updates_that_do_not_fit(clean, message):
    refused(message, defense="autoencoder", clean=clean)


@pytest.mark.parametrize(
    ("updates_ND", "changed"),
    [(scattered(7, 0)[:, :63], {}), (scattered(7, 0), {"hidden": 7}), (scattered(7, 0), {"surrogate": 41})],
    ids=["other parameters", "another width", "other coordinates"],
)
def test_a_detector_of_another_model_or_of_other_sizes_is_refused(updates_ND, changed):
    refused("the state's", updates_ND, "autoencoder", state=detector(), **{**DETECTOR, **changed})


def test_a_history_is_no_state_of_the_memoryless():
    state = aggregate(scattered(7, 0), "foolsgold").state
    refused("state", defense="foolsgold", state=state, memory=False)
